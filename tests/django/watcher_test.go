//go:build unix

package django

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watcher looks at everybody's tables, with Django's eyes.
type watcher struct{ actor *actor }

func (d deployment) watcher() watcher {
	variables := d.variables("shop,search", shop)
	for name, u := range d.databases {
		variables = append(variables, "DATABASE_"+name+"="+u)
	}
	return watcher{d.actor("the watcher", variables...)}
}

// tables are rows by model, each a value by column.
type tables map[string][]map[string]any

func (w watcher) tables(t require.TestingT, service, name string) tables {
	var found tables
	answer := w.actor.do(t, fmt.Sprintf("answer = tables(%q, %q)", service, name))
	require.NoError(t, json.Unmarshal(answer, &found))
	return found
}

// awaitEqual returns when the replicas have what the master has, column by column.
func (w watcher) awaitEqual(t *testing.T, names ...string) {
	t.Helper()
	w.await(t, nil, names...)
}

// awaitEqualBut is awaitEqual without some columns, which nobody fills on the master: there Go is the master, and has
// the revisions in a ledger.
func (w watcher) awaitEqualBut(t *testing.T, columns []string, names ...string) {
	t.Helper()
	w.await(t, columns, names...)
}

func (w watcher) await(t *testing.T, without []string, names ...string) {
	t.Helper()
	for _, name := range names {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			want, got := w.tables(c, "shop", shop), w.tables(c, "search", name)
			for _, t := range []tables{want, got} {
				t.leaveOut(name, without)
			}
			assert.Equal(c, want, got, "the replica %s", name)
		}, time.Minute, 100*time.Millisecond)
	}
}

// leaveOut drops what a replica does not keep: cqrsync does not yet know a UUID in the char(32) that Django makes of it
// on SQLite, and a cqrsync.yaml has no rows of a relation.
func (t tables) leaveOut(name string, columns []string) {
	switch name {
	case file:
		delete(t, "Device")
		fallthrough
	case taken:
		delete(t, "Author")
	}
	for _, rows := range t {
		for _, row := range rows {
			for column := range row {
				if slices.Contains(columns, column) {
					delete(row, column)
				}
			}
		}
	}
}
