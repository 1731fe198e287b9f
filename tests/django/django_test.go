//go:build unix

package django

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// TestServicesChangeFromDjangoToGo is one story, because each part needs what the one before
// leaves: the master is Django and replicas are of both kinds; then replicas, then the master,
// become Go's, while the others go on.
func TestServicesChangeFromDjangoToGo(t *testing.T) {
	d := deploy(t)
	d.replicas = []string{rabbit, kombu, taken, file, gopher}
	workers := map[string]*process{rabbit: nil, kombu: nil, taken: nil, file: nil}
	for _, name := range append([]string{shop}, d.replicas...) {
		d.databases[name] = dbtest.PostgresURL(t)
	}
	d.databases[file] = "sqlite://" + filepath.Join(d.folder, "file.db")
	if os.Getenv(dbtest.Variable(dbtest.MariaDB)) == "" {
		t.Logf("without MariaDB: set %s", dbtest.Variable(dbtest.MariaDB))
	} else {
		d.databases[maria] = dbtest.MariaDBURL(t)
		d.replicas, workers[maria] = append(d.replicas, maria), nil
	}
	t.Cleanup(func() { d.clearBroker(append(d.replicas, graveyard)...) })
	d.gopher()
	d.migrate("shop", shop)
	for name := range workers {
		d.migrate("search", name)
		workers[name] = d.worker(name)
	}
	w := d.watcher()
	masters := map[string]*actor{}
	for _, transport := range []string{rabbit, kombu} {
		masters[transport] = d.actor("the master with "+transportOf(transport),
			append(d.variables("shop", shop), "TRANSPORT=dj_cqrs.transport."+transportOf(transport))...)
	}
	for _, name := range d.replicas {
		d.awaitConsumer(name, 1)
	}
	step := func(name string, do func(t *testing.T)) { require.True(t, t.Run(name, do)) }

	step("Django is the master", func(t *testing.T) { djangoIsMaster(t, w, masters) })
	step("Django syncs", func(t *testing.T) { djangoSyncs(t, d.in(t), w, masters) })
	step("replicas become Go", func(t *testing.T) {
		goTakesReplicasOver(t, d, w, masters, workers)
	})
	d.databases[graveyard] = "sqlite://" + filepath.Join(d.folder, "graveyard.db") // which nobody needs
	bin := d.commands(map[string]string{
		"django-shop": shop, "django-kombu": kombu, "django-taken": taken, "django-rabbit": rabbit,
		"django-graveyard": graveyard,
	})
	step("Go adopts the master", func(t *testing.T) {
		masters[rabbit].do(t, "N = 600"+everyKind) // of which the last messages are still on their way
		goAdoptsTheMaster(t, d)
	})
	step("stages of either kind repair", func(t *testing.T) { stagesMixAfterAdoption(t, d, w, bin) })
	step("Go is the master", func(t *testing.T) { goIsMaster(t, d, w) })
	step("stages of either kind repair a Go master's replicas", func(t *testing.T) {
		stagesMixWithAGoMaster(t, d, w, bin)
	})
	step("Go minds Django's dead letters", func(t *testing.T) { goMindsDjangosLetters(t, d.in(t), bin) })
	step("Django minds Go's dead letters", func(t *testing.T) { djangoMindsGosLetters(t, d.in(t), bin) })
}
