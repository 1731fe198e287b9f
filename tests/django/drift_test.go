//go:build unix

package django

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// commands writes a folder of programs: the relay, and Django as each of the services. A pipe of
// them is what an operator would type.
func (d deployment) commands(django map[string]string) string {
	bin := filepath.Join(d.folder, "bin")
	require.NoError(d, os.MkdirAll(bin, 0o700))
	require.NoError(d, os.Symlink(d.relay, filepath.Join(bin, "relay")))
	for program, name := range django {
		service := "search"
		if name == shop {
			service = "shop"
		}
		text := "#!/bin/sh\nexec env '" + strings.Join(d.variables(service, name), "' '") + "' " +
			d.python + " " + d.project + ` "$@"` + "\n"
		file := filepath.Join(bin, program)
		require.NoError(d, os.WriteFile(file, []byte(text), 0o700)) //nolint:gosec // to be run
	}
	return bin
}

// pipe runs a pipe of commands.
func (d deployment) pipe(t *testing.T, bin, line string) (code int, said string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -o pipefail; "+line)
	cmd.Dir = d.folder
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"),
		"SHOP="+d.databases[shop], "TAKEN="+d.databases[taken])
	output, _ := cmd.CombinedOutput() // the exit code says it
	return cmd.ProcessState.ExitCode(), string(output)
}

// The stages of the two pipes on the master's side and on the replica's, by who does them.
var stages = map[string]map[string]string{
	"list": {
		"Django": "django-shop cqrs_diff_master -cid MODEL",
		"Go":     "relay diff-master --db $SHOP --config shop.yaml --model MODEL --filter '{}' -q",
	},
	"compare": {
		"Django": "django-REPLICA cqrs_diff_replica",
		"Go":     "relay diff-replica --db $TAKEN --config taken.yaml --grace 0s -q",
	},
	"send": {
		"Django": "django-shop cqrs_diff_sync",
		"Go":     "relay diff-sync --db $SHOP --config shop.yaml -q",
	},
	"list the replica": {
		"Django": "django-REPLICA cqrs_deleted_diff_replica -cid MODEL",
		"Go":     "relay deleted-diff-replica --db $TAKEN --config taken.yaml --model MODEL -q",
	},
	"compare with the master": {
		"Django": "django-shop cqrs_deleted_diff_master",
		"Go":     "relay deleted-diff-master --db $SHOP --config shop.yaml -q",
	},
	"delete": {
		"Django": "django-REPLICA cqrs_deleted_sync_replica",
		"Go":     "relay deleted-sync-replica --db $TAKEN --config taken.yaml -q",
	},
}

// pipeOf joins stages: by[i] does the i-th.
func pipeOf(replica, model string, by []string, names ...string) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = strings.NewReplacer("MODEL", model, "REPLICA", replica).Replace(stages[name][by[i]])
	}
	return strings.Join(parts, " | ")
}

// drift does what nobody should: a row is missing, one is stale because its last message was lost,
// one is there that the master does not have.
func drift(t *testing.T, d deployment, replica string) {
	const rest = "email, balance, active, score, points, born, seen, profile, cqrs_revision, cqrs_updated"
	statements := []string{
		"DELETE FROM search_account WHERE id = 101",
		"UPDATE search_account SET name = 'old', cqrs_revision = cqrs_revision - 1 WHERE id = 102",
		"INSERT INTO search_account (id, name, " + rest + ") SELECT 999, 'extra', " + rest +
			" FROM search_account WHERE id = 102",
	}
	if replica == taken {
		statements = append(statements, "UPDATE replica_revisions "+
			"SET revision = revision - 1, updated_at = updated_at - interval '1 minute' "+
			"WHERE model = 'account' AND key = '102'")
	}
	db := dbtest.Open(t, d.databases[replica])
	for _, statement := range statements {
		result, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
		changed, err := result.RowsAffected()
		require.NoError(t, err)
		require.Equal(t, int64(1), changed, statement)
	}
}

// stagesMixAfterAdoption repairs with pipes of which each stage is Django's or ours, in every pair
// of neighbours: between the adoption and the first write of Go both kinds know the master's table.
func stagesMixAfterAdoption(t *testing.T, d deployment, w watcher, bin string) {
	const dj, gO = "Django", "Go"
	for _, by := range [][]string{{dj, dj, dj}, {dj, gO, gO}, {gO, dj, gO}, {gO, gO, dj}} {
		repair(t, d, bin, taken, by, by)
		w.awaitEqual(t, taken)
	}
	// UUID keys: our stages, and those of Django's that only read them.
	db := dbtest.Open(t, d.databases[taken])
	_, err := db.ExecContext(t.Context(),
		"DELETE FROM search_device WHERE label = 'tablet' AND id::text LIKE '%64'")
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(),
		"INSERT INTO search_device (id, label, cqrs_revision, cqrs_updated) VALUES "+
			"('00000000-0000-4000-8000-000000000999', 'extra', 0, now())")
	require.NoError(t, err)
	diff := func(by ...string) string { return pipeOf(taken, "device", by, "list", "compare", "send") }
	deleted := func(by ...string) string {
		return pipeOf(taken, "device", by, "list the replica", "compare with the master", "delete")
	}
	code, said := d.pipe(t, bin, diff(gO, gO, dj))
	require.Less(t, code, 2, said)
	// Django takes a UUID in a list for another than in its table, and all rows for deleted ones.
	// That is refused.
	code, said = d.pipe(t, bin, deleted(gO, dj, gO))
	require.Equal(t, 2, code, said)
	require.Contains(t, said, "--max-deletes")
	code, said = d.pipe(t, bin, deleted(gO, gO, dj))
	require.Less(t, code, 2, said)
	w.awaitEqual(t, taken)
}

// repair makes a replica drift and runs both pipes.
func repair(t *testing.T, d deployment, bin, replica string, diff, deleted []string) {
	t.Helper()
	drift(t, d, replica)
	for _, pipe := range []string{
		pipeOf(replica, "account", diff, "list", "compare", "send"),
		pipeOf(replica, "account", deleted, "list the replica", "compare with the master", "delete"),
	} {
		code, said := d.pipe(t, bin, pipe)
		require.Less(t, code, 2, "%s\n%s", pipe, said)
	}
}

// stagesMixWithAGoMaster repairs a Django replica, and one that was, of a Go master.
func stagesMixWithAGoMaster(t *testing.T, d deployment, w watcher, bin string) {
	repair(t, d, bin, kombu, []string{"Go", "Django", "Go"}, []string{"Django", "Go", "Django"})
	repair(t, d, bin, taken, []string{"Go", "Go", "Go"}, []string{"Go", "Go", "Go"})
	awaitGo(t, w)
}
