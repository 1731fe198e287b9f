package operate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Account is the model of the files in testdata, which a running django-cqrs wrote.
type Account struct {
	bun.BaseModel `bun:"table:accounts"`

	ID   int64 `bun:",pk"`
	Name string
}

// AccountCopy is what a replica keeps of it.
type AccountCopy struct {
	bun.BaseModel `bun:"table:account_copies"`

	ID    int64 `bun:",pk"`
	Title string
}

// Seat has a composite key.
type Seat struct {
	bun.BaseModel `bun:"table:seats"`

	Row   int64  `bun:",pk"`
	Place string `bun:",pk"`
	Guest string
}

// Tag has a text for a key.
type Tag struct {
	bun.BaseModel `bun:"table:tags"`

	Name  string `bun:",pk,type:varchar(100)"`
	Color string
}

// service is a master and a replica, each with a database of its own.
type service struct {
	*testing.T
	master, copies *bun.DB
	box            *outbox.Box
	rep            *replica.Replica
}

// each runs test on every kind of database.
func each(t *testing.T, test func(s *service)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newService(t, dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t))))
		})
	}
}

func newService(t *testing.T, master, copies *bun.DB) *service {
	s := &service{T: t, master: master, copies: copies}
	for _, table := range []any{(*Account)(nil), (*Seat)(nil), (*Tag)(nil)} {
		_, err := master.NewCreateTable().Model(table).Exec(t.Context())
		require.NoError(t, err)
	}
	for _, table := range []any{(*AccountCopy)(nil), (*Seat)(nil), (*Tag)(nil)} {
		_, err := copies.NewCreateTable().Model(table).Exec(t.Context())
		require.NoError(t, err)
	}
	var err error
	s.box, err = outbox.New(master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Account](s.box, "account"))
	require.NoError(t, outbox.Register[Seat](s.box, "seat"))
	require.NoError(t, outbox.Register[Tag](s.box, "tag"))
	require.NoError(t, s.box.Migrate(t.Context()))
	s.rep, err = replica.New(copies, replica.Config{Queue: "replica_a", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, replica.Register[AccountCopy](s.rep, "account", replica.Rename("name", "title")))
	require.NoError(t, replica.Register[Seat](s.rep, "seat"))
	require.NoError(t, replica.Register[Tag](s.rep, "tag"))
	require.NoError(t, s.rep.Migrate(t.Context()))
	return s
}

// write commits what fn does to the master.
func (s *service) write(fn func(ctx context.Context, tx bun.Tx) error) {
	s.Helper()
	require.NoError(s, s.box.RunInTx(s.Context(), nil, fn))
}

func (s *service) insert(rows any) {
	s.Helper()
	s.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(rows).Exec(ctx)
		return err
	})
}

// accounts inserts accounts n to m.
func (s *service) accounts(n, m int64) {
	s.Helper()
	var rows []*Account
	for id := n; id <= m; id++ {
		rows = append(rows, &Account{ID: id, Name: "account"})
	}
	s.insert(&rows)
}

// rename updates an account on the master.
func (s *service) rename(id int64, name string) {
	s.Helper()
	s.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model(&Account{ID: id, Name: name}).WherePK().Exec(ctx)
		return err
	})
}

// remove deletes an account on the master.
func (s *service) remove(id int64) {
	s.Helper()
	s.write(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewDelete().Model(&Account{ID: id}).WherePK().Exec(ctx)
		return err
	})
}

func (s *service) exec(db *bun.DB, statement string, args ...any) {
	s.Helper()
	_, err := db.DB.ExecContext(s.Context(), statement, args...)
	require.NoError(s, err)
}

// carry does what relay and broker do, and returns how many messages there were.
func (s *service) carry() int {
	s.Helper()
	return carry(s.Context(), s, s.master, s.rep)
}

// copiesOf is the replica's table.
func (s *service) copied() map[int64]string {
	s.Helper()
	var rows []AccountCopy
	require.NoError(s, s.copies.NewSelect().Model(&rows).Scan(s.Context()))
	texts := map[int64]string{}
	for _, row := range rows {
		texts[row.ID] = row.Title
	}
	return texts
}

func (s *service) wanted() map[int64]string {
	s.Helper()
	var rows []Account
	require.NoError(s, s.master.NewSelect().Model(&rows).Scan(s.Context()))
	texts := map[int64]string{}
	for _, row := range rows {
		texts[row.ID] = row.Name
	}
	return texts
}

// ledger writes rows into a ledger, as a Django master's history would have left them.
func (s *service) ledger(db *bun.DB, table, dump string) {
	s.Helper()
	for _, line := range strings.Split(strings.TrimSpace(dump), "\n")[1:] {
		var row struct {
			ID       json.Number `json:"id"`
			Revision int64       `json:"cqrs_revision"`
			Updated  string      `json:"cqrs_updated"`
		}
		require.NoError(s, json.Unmarshal([]byte(line), &row))
		updated, err := time.Parse("2006-01-02 15:04:05.999999-07:00", row.Updated)
		require.NoError(s, err)
		var at any = updated
		if db.Dialect().Name().String() != "pg" {
			at = updated.UnixMicro()
		}
		_, err = db.NewInsert().Table(table).Model(&map[string]any{
			"model": "account", "key": row.ID.String(), "revision": row.Revision, "updated_at": at,
		}).Exec(s.Context())
		require.NoError(s, err)
	}
}

func golden(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return string(text)
}

func (s *service) load(dump string, o operate.LoadOptions) operate.Loaded {
	s.Helper()
	loaded, err := operate.Load(s.Context(), s.rep, strings.NewReader(dump), o)
	require.NoError(s, err)
	later(s.Context(), s, s.rep)
	return loaded
}

func (s *service) dump(model string) string {
	s.Helper()
	var b bytes.Buffer
	_, err := operate.Dump(s.Context(), s.box, model, &b, operate.DumpOptions{EndMark: true})
	require.NoError(s, err)
	return b.String()
}

// diff runs the three stages as a pipe and returns the last one's input.
func (s *service) diff(o operate.DiffMasterOptions) (toSync string, found operate.Difference) {
	s.Helper()
	var listed, differing bytes.Buffer
	_, err := operate.DiffMaster(s.Context(), s.box, "account", &listed, o)
	require.NoError(s, err)
	found, err = operate.DiffReplica(s.Context(), s.rep, &listed, &differing, o.Options)
	require.NoError(s, err)
	return differing.String(), found
}
