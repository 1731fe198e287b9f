//go:build unix

package django

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestServicesChangeFromDjangoToGo is one story, because each part needs what the one before leaves: the master is
// Django and replicas are of both kinds; then replicas, then the master, become Go's, while the others go on.
func TestServicesChangeFromDjangoToGo(t *testing.T) {
	began := time.Now()
	d := deploy(t)
	t.Log("built", time.Since(began))
	d.gopher()
	for service, names := range map[string][]string{"shop": {shop}, "search": {rabbit, kombu, taken, file}} {
		for _, name := range names {
			cmd := d.manage(t.Context(), "migrate", "--run-syncdb", "--verbosity", "0")
			cmd.Env = append(os.Environ(), d.variables(service, name)...)
			output, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", output)
		}
	}
	t.Log("migrated", time.Since(began))
	workers := map[string]*process{}
	for _, name := range []string{rabbit, kombu, taken, file} {
		workers[name] = d.worker(name)
	}
	w := d.watcher()
	masters := map[string]*actor{}
	for _, transport := range []string{rabbit, kombu} {
		masters[transport] = d.actor("the master with "+transportOf(transport),
			append(d.variables("shop", shop), "TRANSPORT=dj_cqrs.transport."+transportOf(transport))...)
	}
	for _, name := range replicas {
		d.awaitConsumer(name, 1)
	}
	t.Log("ready after", time.Since(began))
	step := func(name string, do func(t *testing.T)) { require.True(t, t.Run(name, do)) }

	step("Django is the master", func(t *testing.T) { djangoIsMaster(t, w, masters) })
	step("Django syncs", func(t *testing.T) { djangoSyncs(t, d.in(t), w, masters) })
	step("replicas become Go", func(t *testing.T) { goTakesReplicasOver(t, d, w, masters, workers) })
	step("Go adopts the master", func(t *testing.T) { goAdoptsTheMaster(t, d) })
	step("stages of either kind repair", func(t *testing.T) { stagesMixAfterAdoption(t, d, w) })
	step("Go is the master", func(t *testing.T) { goIsMaster(t, d, w) })
	step("stages of either kind repair a Go master's replicas", func(t *testing.T) { stagesMixWithAGoMaster(t, d, w) })
}
