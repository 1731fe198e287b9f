//go:build unix

package django

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

const shopYAML = `models:
  account: {table: shop_account}
  publisher: {table: shop_publisher}
  book: {table: shop_book, map: {publisher_id: publisher}}
  device: {table: shop_device}
  article: {table: shop_article}
`

// The tables of the master that Django made. Their columns cqrs_revision and cqrs_updated are
// nobody's any more.
type (
	account struct {
		bun.BaseModel `bun:"table:shop_account"`
		outbox.Tracked
		AccountColumns
	}
	publisher struct {
		bun.BaseModel `bun:"table:shop_publisher"`
		outbox.Tracked
		PublisherColumns
	}
	book struct {
		bun.BaseModel `bun:"table:shop_book"`
		outbox.Tracked
		BookColumns
	}
	device struct {
		bun.BaseModel `bun:"table:shop_device"`
		outbox.Tracked
		DeviceColumns
	}
	article struct {
		bun.BaseModel `bun:"table:shop_article"`
		outbox.Tracked

		ID      int64 `bun:",pk"`
		Title   string
		Authors []*author `bun:"rel:has-many,join:id=article_id"`
	}
	author struct {
		bun.BaseModel `bun:"table:shop_author"`
		AuthorColumns
	}
)

// goAdoptsTheMaster takes the revisions over after Django's last write.
func goAdoptsTheMaster(t *testing.T, d deployment) {
	config := d.in(t).write("shop.yaml", shopYAML)
	d.in(t).run(0, "migrate", "--db", d.databases[shop])
	for _, model := range models {
		said := d.in(t).run(0, "adopt", "--db", d.databases[shop], "--config", config, "--model", model)
		require.Contains(t, said, "0 rows are sent again")
		again := d.in(t).run(0, "adopt", "--db", d.databases[shop], "--config", config, "--model", model)
		require.Contains(t, again, " 0 revisions taken over")
	}
	ctx := context.WithoutCancel(d.Context())
	start(d.T, "relay run", exec.CommandContext(ctx, d.relay, //nolint:gosec // ours
		"run", "--db", d.databases[shop], "--broker", d.brokerURL()))
}

// goService is the Go service on Django's tables.
func goService(t *testing.T, d deployment) *outbox.Box {
	db := dbtest.Open(t, d.databases[shop])
	for _, model := range models {
		// Nobody fills these any more.
		_, err := db.ExecContext(t.Context(), "ALTER TABLE shop_"+model+
			" ALTER cqrs_revision SET DEFAULT 0, ALTER cqrs_updated SET DEFAULT now()")
		require.NoError(t, err)
	}
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[account](box, "account", outbox.TrackPrevious("name", "balance")))
	require.NoError(t, outbox.Register[publisher](box, "publisher"))
	// Replicas know the foreign key by the name that Django sent.
	require.NoError(t, outbox.Register[book](box, "book", outbox.Rename("publisher", "publisher_id")))
	require.NoError(t, outbox.Register[device](box, "device"))
	require.NoError(t, outbox.Register[article](box, "article", outbox.Relations("Authors"),
		outbox.DeleteData(func(_ context.Context, a *article) map[string]any {
			return map[string]any{"title": a.Title}
		})))
	require.NoError(t, box.Check(t.Context()))
	return box
}

func pointer[T any](v T) *T { return &v }

// goIsMaster writes in every way there is, to rows of its own and of Django's.
func goIsMaster(t *testing.T, d deployment, w watcher) {
	box := goService(t, d)
	check := d.answered(t, box)
	defer check()
	do := func(write func(ctx context.Context, tx bun.Tx) error) {
		t.Helper()
		require.NoError(t, box.RunInTx(t.Context(), nil, write))
	}
	type columns = AccountColumns
	insert := func(rows ...account) {
		t.Helper()
		do(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewInsert().Model(&rows).Exec(ctx)
			return err
		})
	}
	remove := func(model any) {
		t.Helper()
		do(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewDelete().Model(model).WherePK().Exec(ctx)
			return err
		})
	}
	// Rows of its own, with values that are easily lost on the way.
	insert(account{AccountColumns: columns{
		ID: 501, Name: "Grace \"é\" / \\ 😀 \u2028", Email: pointer("g@example.org"),
		Balance: "1234567.89", Active: true, Score: pointer(0.1), Points: 1<<53 + 1,
		Born:    pointer(time.Date(1906, 12, 9, 0, 0, 0, 0, time.UTC)),
		Seen:    pointer(time.Date(2026, 3, 29, 2, 30, 0, 123456000, time.UTC)),
		Profile: json.RawMessage(`{"ü":[1,null,1.5,"a/b"],"in":{"x":true}}`),
	}})
	insert(account{AccountColumns: columns{ID: 502, Name: "gone", Balance: "-0.01"}})
	remove(&account{AccountColumns: columns{ID: 502}})
	// The next writes of what Django wrote: changed, deleted, and a key that Django deleted,
	// created again.
	for _, key := range []int64{101, 102, 204, 301} {
		do(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewUpdate().Model(&account{AccountColumns: columns{ID: key, Name: "changed by Go"}}).
				Column("name").WherePK().Exec(ctx)
			return err
		})
	}
	remove(&account{AccountColumns: columns{ID: 105}})
	remove(&account{AccountColumns: columns{ID: 205}})
	insert(account{AccountColumns: columns{ID: 103, Name: "again", Balance: "0"}},
		account{AccountColumns: columns{ID: 205, Name: "again, too", Balance: "0"}})
	// In bulk, by a WHERE.
	do(func(ctx context.Context, tx bun.Tx) error {
		_, err := outbox.BulkUpdate[account](ctx, tx,
			func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("id % 100 = 6") },
			func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("points = points + 1") })
		if err == nil {
			_, err = outbox.BulkDelete[account](ctx, tx,
				func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("id IN (107, 207)") })
		}
		return err
	})
	// A transaction with several, and one that is rolled back.
	do(func(ctx context.Context, tx bun.Tx) error {
		press := publisher{PublisherColumns: PublisherColumns{501, "Go Press"}}
		_, err := tx.NewInsert().Model(&press).Exec(ctx)
		for _, b := range []book{
			{BookColumns: BookColumns{501, "In one transaction", pointer[int64](501)}},
			{BookColumns: BookColumns{502, "With nobody", nil}},
		} {
			if err == nil {
				_, err = tx.NewInsert().Model(&b).Exec(ctx)
			}
		}
		if err == nil {
			sold := book{BookColumns: BookColumns{101, "Django's, sold", pointer[int64](501)}}
			_, err = tx.NewUpdate().Model(&sold).WherePK().Column("title", "publisher_id").Exec(ctx)
		}
		if err == nil {
			_, err = tx.NewDelete().Model(&book{BookColumns: BookColumns{ID: 102}}).WherePK().Exec(ctx)
		}
		return err
	})
	errBack := errors.New("back")
	require.ErrorIs(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model(&account{AccountColumns: columns{ID: 101, Name: "rolled back"}}).
			Column("name").WherePK().Exec(ctx)
		return errors.Join(err, errBack)
	}), errBack)
	// The rows of a relation, of an article of Go's and one of Django's; deletes with data of their
	// own.
	do(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&article{ID: 501, Title: "Two wrote it"}).Exec(ctx)
		if err == nil {
			_, err = tx.NewInsert().Model(&[]author{
				{AuthorColumns: AuthorColumns{501, 501, "One"}},
				{AuthorColumns: AuthorColumns{502, 501, "Two"}},
				{AuthorColumns: AuthorColumns{503, 101, "A third"}},
			}).Exec(ctx)
		}
		if err == nil {
			err = outbox.Touch[article](ctx, tx, int64(101))
		}
		return err
	})
	remove(&article{ID: 202, Title: "Nobody wrote it"})
	// Keys that are UUIDs; Django could not have deleted one.
	do(func(ctx context.Context, tx bun.Tx) error {
		ours := device{DeviceColumns: DeviceColumns{
			uuid.MustParse("00000000-0000-4000-8000-0000000000AB"), "Go's",
		}}
		_, err := tx.NewInsert().Model(&ours).Exec(ctx)
		return err
	})
	theirs := uuid.MustParse("0abcdef0-0000-0000-0000-000000000064")
	remove(&device{DeviceColumns: DeviceColumns{ID: theirs}})
	awaitGo(t, w)

	goSyncs(t, d, w, box)
}

// goSyncs brings what was changed without a message: in bulk to all, and directly to one queue.
func goSyncs(t *testing.T, d deployment, w watcher, box *outbox.Box) {
	db := dbtest.Open(t, d.databases[shop])
	silently := func(statement string) {
		t.Helper()
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	silently("UPDATE shop_account SET name = 'without a message' WHERE id IN (101, 501)")
	d.in(t).run(0, "sync", "--db", d.databases[shop], "--config", d.folder+"/shop.yaml",
		"--broker", d.brokerURL(), "--model", "account", "--filter", `{"name__startswith": "without"}`)
	awaitGo(t, w)
	for _, name := range w.replicas {
		silently(fmt.Sprintf("UPDATE shop_account SET name = 'for %s' WHERE id = 102", name))
		sent, err := box.Sync(t.Context(), "account", []json.RawMessage{json.RawMessage("102")},
			outbox.SyncOptions{Queue: d.queue(name)})
		require.NoError(t, err)
		require.Equal(t, 1, sent)
		w.awaitEqualBut(t, withoutStamps, name)
		for _, other := range w.replicas {
			if other != name {
				require.NotContains(t, fmt.Sprint(w.tables(t, "search", other)), "for "+name)
			}
		}
	}
	_, err := box.Sync(t.Context(), "account", []json.RawMessage{json.RawMessage("102")},
		outbox.SyncOptions{})
	require.NoError(t, err)
	awaitGo(t, w)
}

// awaitGo returns when all replicas have what the Go master has, and the same revisions.
func awaitGo(t *testing.T, w watcher) {
	t.Helper()
	w.awaitEqualBut(t, withoutStamps, w.replicas...)
	for _, name := range w.replicas {
		want, got := w.tables(t, "search", gopher), w.tables(t, "search", name)
		want.leaveOut(name)
		got.leaveOut(name)
		require.Equal(t, want, got, "%s, beside %s, with revisions", name, gopher)
	}
}
