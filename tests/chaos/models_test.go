//go:build unix

package chaos

import (
	"context"
	"strconv"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
)

// The master's two models. Of an item only the newest of what waits need leave; of an entry every
// revision must.
const (
	itemModel  = "item"
	entryModel = "entry"
)

// Content is what a row of either model says about the transaction that wrote it last.
type Content struct {
	ID   int64  `bun:",pk"`
	Seq  int64  `bun:",notnull"` // how many transactions have changed the key, this one included
	Txn  string `bun:",notnull"`
	Note string `bun:",notnull"` // final, once the transaction has done with it
}

// What stands in Note during a transaction, and when it commits.
const (
	draft = "draft"
	final = "final"
)

type item struct {
	bun.BaseModel `bun:"table:items"`
	outbox.Tracked
	Content
}

type entry struct {
	bun.BaseModel `bun:"table:entries"`
	outbox.Tracked
	Content
}

// counter is a row per key, present or not, that a transaction locks before it changes the key. It
// counts changes in the order of their commits, in the application's own way.
type counter struct {
	bun.BaseModel `bun:"table:counters"`

	Model string `bun:"type:varchar(20),pk"`
	ID    int64  `bun:",pk"`
	Seq   int64  `bun:",notnull"`
	Live  bool   `bun:",notnull"`
}

// journalRow is what a transaction did to a key in the end. It commits with the transaction, so it
// says what did.
type journalRow struct {
	bun.BaseModel `bun:"table:journal"`

	Model   string `bun:"type:varchar(20),pk"`
	ID      int64  `bun:",pk"`
	Seq     int64  `bun:",pk"`
	Txn     string `bun:",notnull"`
	Deleted bool   `bun:",notnull"`
}

func (j journalRow) key() key { return key{j.Model, strconv.FormatInt(j.ID, 10)} }

// itemCopy and entryCopy are what a mirror has; the replica with a handler writes the same itself.
type itemCopy struct {
	bun.BaseModel `bun:"table:item_copies"`
	Content
	Revision int64 `bun:"cqrs_revision"`
}

type entryCopy struct {
	bun.BaseModel `bun:"table:entry_copies"`
	Content
	Revision int64 `bun:"cqrs_revision"`
}

// effect is a revision that had an effect on the replica with a handler, and how often.
type effect struct {
	bun.BaseModel `bun:"table:effects"`

	Model    string `bun:"type:varchar(20),pk"`
	ID       int64  `bun:",pk"`
	Revision int64  `bun:",pk"`
	Times    int64  `bun:",notnull"`
	Late     bool   `bun:",notnull"` // the key had a newer revision already
	Risen    bool   `bun:",notnull"` // and that was a delete, and this a save
	Deleted  bool   `bun:",notnull"`
	Txn      string `bun:",notnull"`
}

func createTables(ctx context.Context, db bun.IDB, models ...any) error {
	for _, model := range models {
		if _, err := db.NewCreateTable().Model(model).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}
