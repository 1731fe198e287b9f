// Package mastertest is a master's outbox for the tests of those who read it: its tables, and who
// writes, counts and claims in them.
//
// Test packages only.
package mastertest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// Outbox is the rooms of a master's database, under the names that are the default. It is safe for
// concurrent use.
type Outbox struct {
	*db.Database
	*ledger.Revisions
	*master.Writer
	*queue.Queue
	*tables.Migrator
}

// New talks to nobody yet.
func New(bunDB *bun.DB) (*Outbox, error) {
	d, err := db.New(bunDB, db.Names{})
	if err != nil {
		return nil, err
	}
	return &Outbox{d, ledger.NewRevisions(d), master.New(d), queue.New(d), tables.New(d)}, nil
}

// Open makes the tables.
func Open(t testing.TB, bunDB *bun.DB) *Outbox {
	t.Helper()
	o, err := New(bunDB)
	require.NoError(t, err)
	require.NoError(t, o.Make(t.Context()))
	return o
}

// Make makes the tables.
func (o *Outbox) Make(ctx context.Context) error {
	_, err := o.Migrate(ctx, db.Outbox)
	return err
}
