//go:build unix

package django

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watcher looks at everybody's tables, with Django's eyes.
type watcher struct {
	actor    *actor
	replicas []string
}

func (d deployment) watcher() watcher {
	variables := d.variables("shop,search", shop)
	for name, u := range d.databases {
		variables = append(variables, "DATABASE_"+name+"="+u)
	}
	return watcher{d.actor("the watcher", variables...), d.replicas}
}

// tables are rows by model, each a value by column.
type tables map[string][]map[string]any

func (w watcher) tables(t require.TestingT, service, name string) tables {
	var found tables
	answer := w.actor.do(t, fmt.Sprintf("answer = tables(%q, %q)", service, name))
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber() // of 64 bits
	require.NoError(t, decoder.Decode(&found))
	return found
}

// awaitEqual returns when the replicas have what the master has, column by column.
func (w watcher) awaitEqual(t *testing.T, names ...string) {
	t.Helper()
	w.awaitEqualBut(t, func(tables) {}, names...)
}

// awaitEqualBut is awaitEqual without what drop takes out.
func (w watcher) awaitEqualBut(t *testing.T, drop func(tables), names ...string) {
	t.Helper()
	for _, name := range names {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			want, got := w.tables(c, "shop", shop), w.tables(c, "search", name)
			for _, t := range []tables{want, got} {
				t.leaveOut(name)
				drop(t)
			}
			assert.Equal(c, want, got, "the replica %s", name)
		}, time.Minute, 100*time.Millisecond)
	}
}

// withoutStamps drops what nobody fills on a Go master, which has the revisions in a ledger.
func withoutStamps(t tables) {
	for _, rows := range t {
		for _, row := range rows {
			delete(row, "cqrs_revision")
			delete(row, "cqrs_updated")
		}
	}
}

// leaveOut drops what a replica does not keep: a cqrsync.yaml has no rows of a relation.
func (t tables) leaveOut(name string) {
	switch name {
	case file, taken, maria:
		delete(t, "Author")
	}
}
