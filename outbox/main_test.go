package outbox_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type Order struct {
	bun.BaseModel `bun:"table:orders"`
	outbox.Tracked

	ID     int64  `bun:",pk,autoincrement"`
	Number string `bun:",unique"`
	Status string
	Lines  []*Line `bun:"rel:has-many,join:id=order_id"`
}

type Line struct {
	bun.BaseModel `bun:"table:lines"`

	ID       int64 `bun:",pk,autoincrement"`
	OrderID  int64
	SKU      string
	Quantity int
}

// Seat has a composite key, of a number and a text.
type Seat struct {
	bun.BaseModel `bun:"table:seats"`
	outbox.Tracked

	Row   int64  `bun:",pk"`
	Place string `bun:",pk"`
	Guest string
}

// Note does not embed outbox.Tracked.
type Note struct {
	bun.BaseModel `bun:"table:notes"`

	Slug string `bun:",pk"`
	Text string
}

// File is deleted softly.
type File struct {
	bun.BaseModel `bun:"table:files"`
	outbox.Tracked

	ID        int64 `bun:",pk"`
	Name      string
	DeletedAt time.Time `bun:",soft_delete,nullzero"`
}

// Log is not registered.
type Log struct {
	bun.BaseModel `bun:"table:logs"`

	ID   int64 `bun:",pk,autoincrement"`
	Text string
}

type fixture struct {
	*testing.T
	db  *bun.DB
	box *outbox.Box
}

// each runs test on every database with the tables made and the models registered.
func each(t *testing.T, test func(f fixture)) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) { test(newFixture(t, db)) })
}

func newFixture(t *testing.T, db *bun.DB) fixture { return newFixtureWith(t, db, outbox.Config{}) }

func newFixtureWith(t *testing.T, db *bun.DB, config outbox.Config) fixture {
	for _, table := range []any{(*Order)(nil), (*Line)(nil), (*Seat)(nil), (*Note)(nil), (*File)(nil), (*Log)(nil)} {
		_, err := db.NewCreateTable().Model(table).Exec(t.Context())
		require.NoError(t, err)
	}
	box, err := outbox.New(db, config)
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Order](box, "order", outbox.Relations("Lines")))
	require.NoError(t, outbox.Register[Seat](box, "seat"))
	require.NoError(t, outbox.Register[Note](box, "note"))
	require.NoError(t, outbox.Register[File](box, "file"))
	require.NoError(t, box.Migrate(t.Context()))
	return fixture{t, db, box}
}

func (f fixture) inTx(fn func(ctx context.Context, tx bun.Tx) error) error {
	return f.box.RunInTx(f.Context(), nil, fn)
}

// insert commits a row by itself.
func (f fixture) insert(row any) {
	f.Helper()
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(row).Exec(ctx)
		return err
	}))
}

// message is an outbox row as tests compare it.
type message struct {
	Model    string
	Key      string
	Revision int64
	After    *int64
	Signal   string
	PK       json.RawMessage
	Data     json.RawMessage
}

// take returns the messages appended since the last call, in order, and removes them.
func (f fixture) take() []message {
	f.Helper()
	var messages []message
	err := f.db.NewSelect().Table("outbox_messages").
		Column("model", "key", "revision", "after", "signal", "pk", "data").Order("id").Scan(f.Context(), &messages)
	require.NoError(f, err)
	_, err = f.db.NewDelete().Table("outbox_messages").Where("TRUE").Exec(f.Context())
	require.NoError(f, err)
	return messages
}

// summary is "model key revision signal", one string per message.
func summary(messages []message) []string {
	lines := make([]string, len(messages))
	for i, m := range messages {
		revision, _ := json.Marshal(m.Revision)
		lines[i] = m.Model + " " + m.Key + " " + string(revision) + " " + m.Signal
	}
	return lines
}
