package operate_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// ShopA and ShopB are two masters' models that a replica keeps in one table.
type ShopA struct {
	bun.BaseModel `bun:"table:shop_a"`

	ID   string `bun:",pk,type:varchar(20)"`
	Name string
}

type ShopB struct {
	bun.BaseModel `bun:"table:shop_b"`

	ID   string `bun:",pk,type:varchar(20)"`
	Name string
}

// Item has the shop beside the key, ShopPart within it.
type Item struct {
	bun.BaseModel `bun:"table:items"`

	ID     string  `bun:",pk,type:varchar(20)"`
	Source *string `bun:"type:varchar(20)"`
	Name   string
}

type ShopPart struct {
	bun.BaseModel `bun:"table:parts"`

	Shop int64  `bun:",pk"`
	ID   string `bun:",pk,type:varchar(20)"`
	Name string
}

// shops are two masters in one database, and a replica of both whose table is T's.
type shops struct {
	*testing.T
	master, copies *bun.DB
	box            *outbox.Box
	rep            *replica.Replica
}

func newShops[T any](t *testing.T, master, copies *bun.DB, column string, a, b any) *shops {
	for _, table := range []any{(*ShopA)(nil), (*ShopB)(nil)} {
		_, err := master.NewCreateTable().Model(table).Exec(t.Context())
		require.NoError(t, err)
	}
	_, err := copies.NewCreateTable().Model((*T)(nil)).Exec(t.Context())
	require.NoError(t, err)
	s := &shops{T: t, master: master, copies: copies}
	s.box, err = outbox.New(master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[ShopA](s.box, "a"))
	require.NoError(t, outbox.Register[ShopB](s.box, "b"))
	require.NoError(t, s.box.Migrate(t.Context()))
	s.rep, err = replica.New(copies, replica.Config{Queue: "q", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, replica.Register[T](s.rep, "a", replica.Constant(column, a)))
	require.NoError(t, replica.Register[T](s.rep, "b", replica.Constant(column, b)))
	require.NoError(t, s.rep.Migrate(t.Context()))
	return s
}

func (s *shops) run(fn func(ctx context.Context, tx bun.Tx) error) {
	s.Helper()
	require.NoError(s, s.box.RunInTx(s.Context(), nil, fn))
	carry(s.Context(), s, s.master, s.rep)
}

func (s *shops) load(model string, clear bool, lines ...string) operate.Loaded {
	s.Helper()
	loaded, err := operate.Load(s.Context(), s.rep, strings.NewReader(model+"\n"+strings.Join(lines, "\n")),
		operate.LoadOptions{Clear: clear, Options: operate.Options{MaxDeletes: 2}})
	require.NoError(s, err)
	return loaded
}

func (s *shops) diff(model string) operate.Result {
	s.Helper()
	result, err := operate.Diff(s.Context(), s.box, s.rep, model, io.Discard, operate.DiffOptions{
		Options: operate.Options{PageSize: 2}, Content: true,
	})
	require.NoError(s, err)
	carry(s.Context(), s, s.master, s.rep)
	return result
}

// rows are those of the replica's table, sorted.
func (s *shops) rows(query string) string {
	s.Helper()
	rows, err := s.copies.DB.QueryContext(s.Context(), query)
	require.NoError(s, err)
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		var owner, id, name string
		require.NoError(s, rows.Scan(&owner, &id, &name))
		all = append(all, owner+":"+id+":"+name)
	}
	require.NoError(s, rows.Err())
	return strings.Join(all, " ")
}

// What one model's tools do, whatever they find, they do to its own rows.
func (s *shops) ownsItsRows(query, phantomA, phantomB string) {
	s.run(func(ctx context.Context, tx bun.Tx) error {
		a, b := []ShopA{{ID: "a1", Name: "x"}, {ID: "a2", Name: "x"}},
			[]ShopB{{ID: "b1", Name: "y"}, {ID: "b2", Name: "y"}, {ID: "b3", Name: "y"}}
		if _, err := tx.NewInsert().Model(&a).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(&b).Exec(ctx)
		return err
	})
	const all = "1:a1:x 1:a2:x 2:b1:y 2:b2:y 2:b3:y"
	require.Equal(s, all, s.rows(query))
	require.True(s, s.diff("a").Equal())
	require.True(s, s.diff("b").Equal())

	_, err := s.copies.ExecContext(s.Context(), phantomA)
	require.NoError(s, err)
	_, err = s.copies.ExecContext(s.Context(), phantomB)
	require.NoError(s, err)
	require.EqualValues(s, 1, s.diff("a").Deleted)
	require.EqualValues(s, 1, s.diff("b").Deleted)
	require.Equal(s, all, s.rows(query))

	filter, err := operate.ParseFilter(`{"pk__in": ["a1", "a2", "b1"]}`)
	require.NoError(s, err)
	result, err := operate.Diff(s.Context(), s.box, s.rep, "a", io.Discard, operate.DiffOptions{
		Options: operate.Options{Filter: filter}, Content: true,
	})
	require.NoError(s, err)
	require.True(s, result.Equal())

	s.load("a", true, `{"id":"a1","name":"x","cqrs_revision":0,"cqrs_updated":null}`)
	require.Equal(s, "1:a1:x 2:b1:y 2:b2:y 2:b3:y", s.rows(query), "only its own rows are cleared")
	require.EqualValues(s, 1, s.diff("a").Sent)
	require.True(s, s.diff("a").Equal())
	require.Equal(s, all, s.rows(query))

	s.run(func(ctx context.Context, tx bun.Tx) error { // deletes find their rows
		if _, err := tx.NewDelete().Model(&ShopA{ID: "a1"}).WherePK().Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewDelete().Model(&ShopB{ID: "b3"}).WherePK().Exec(ctx)
		return err
	})
	require.Equal(s, "1:a2:x 2:b1:y 2:b2:y", s.rows(query))
	require.True(s, s.diff("a").Equal())
	require.True(s, s.diff("b").Equal())
}

func TestTwoModelsInOneTableOwnTheirRows(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		s := newShops[Item](t, master, copies, "source", "1", "2")
		s.ownsItsRows("SELECT source, id, name FROM items ORDER BY source, id",
			"INSERT INTO items (source, id, name) VALUES ('1', 'p1', 'z')", "INSERT INTO items (source, id, name) VALUES ('2', 'p2', 'z')")

		// A key that the other model has already: its row is not taken.
		m, err := envelope.Decode([]byte(`{"signal_type":"SAVE","cqrs_id":"b","instance_pk":"a2","instance_data":`+
			`{"id":"a2","name":"taken","cqrs_revision":0,"cqrs_updated":"2026-11-30 12:00:00+00:00"}}`), nil)
		require.NoError(t, err)
		results, err := s.rep.Apply(t.Context(), []*envelope.Message{m})
		require.NoError(t, err)
		require.ErrorContains(t, results[0].Err, "another model or the service owns")
		m.Signal, m.Revision = envelope.Delete, 1
		m.Data = envelope.Stamp(envelope.DeleteData(m.PK), 1, m.Updated)
		_, err = s.rep.Apply(t.Context(), []*envelope.Message{m})
		require.NoError(t, err)
		require.Equal(t, "1:a2:x 2:b1:y 2:b2:y", s.rows("SELECT source, id, name FROM items ORDER BY source, id"))

		// A row from before there was a Constant is the model's when the master says so, and
		// nobody's until then.
		_, err = s.copies.ExecContext(t.Context(), "UPDATE items SET source = NULL WHERE id = 'a2'")
		require.NoError(t, err)
		result := s.diff("a")
		require.EqualValues(t, 1, result.Sent)
		require.Zero(t, result.Deleted)
		require.Equal(t, "1:a2:x 2:b1:y 2:b2:y", s.rows("SELECT source, id, name FROM items ORDER BY source, id"))
	})
}

func TestTwoModelsInOneTableAreToldApartByTheKey(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		s := newShops[ShopPart](t, master, copies, "shop", 1, 2)
		const query = "SELECT shop, id, name FROM parts ORDER BY shop, id"
		s.ownsItsRows(query,
			"INSERT INTO parts (shop, id, name) VALUES (1, 'p1', 'z')", "INSERT INTO parts (shop, id, name) VALUES (2, 'p1', 'z')")
		s.run(func(ctx context.Context, tx bun.Tx) error { // one key, two rows
			b := []ShopB{{ID: "a2", Name: "y"}}
			_, err := tx.NewInsert().Model(&b).Exec(ctx)
			return err
		})
		require.Equal(t, "1:a2:x 2:a2:y 2:b1:y 2:b2:y", s.rows(query))
		require.True(t, s.diff("a").Equal())
		require.True(t, s.diff("b").Equal())
	})
}

func TestModelsThatNothingTellsApartAreRefused(t *testing.T) {
	rep, err := replica.New(dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{Queue: "q"})
	require.NoError(t, err)
	require.NoError(t, replica.Register[Item](rep, "a", replica.Constant("source", "a")))
	require.ErrorContains(t, replica.Register[Item](rep, "b"), `model "a" is mirrored into table items too`)
	require.ErrorContains(t, replica.Register[Item](rep, "c", replica.Constant("source", "a")), "nothing tells their rows apart")
	require.ErrorContains(t, replica.Register[ShopPart](rep, "d", replica.Computed("shop", func(replica.Fields) (any, error) {
		return 1, nil
	})), "a delete carries nothing to compute it from")
	require.ErrorContains(t, replica.Register[ShopPart](rep, "e", replica.Constant("shop", "x")), "want a value for a column of type int64")
	require.ErrorContains(t, replica.Register[ShopPart](rep, "f", replica.Constant("shop", 1), replica.Constant("id", "x")),
		"one must hold the master's key")
}

// A replica that runs, or loads, says once per column that the master sends nothing for it; a diff
// does every time.
func TestAFieldThatTheMasterDoesNotSendIsADifference(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		p := newPair(t, master, copies, "id bigint PRIMARY KEY, title varchar(20)",
			"id bigint PRIMARY KEY, name varchar(20), note varchar(20)", ", map: {name: titel}")
		p.exec(master, "INSERT INTO parcels (id, title) VALUES (1, 'a'), (2, 'b')")
		require.Empty(t, p.copy())
		require.Empty(t, p.copy())
		for _, column := range []string{"column=name field=titel", "column=note field=note"} {
			require.Equal(t, 1, strings.Count(p.logged.String(), column), p.logged)
		}
		want := []operate.Unsent{{Column: "name", Field: "titel"}, {Column: "note", Field: "note"}}
		for _, content := range []bool{false, true} {
			result := p.diff(content)
			require.Equal(t, want, result.Unsent)
			require.Zero(t, result.Differing)
			require.False(t, result.Equal())
		}
		var listed bytes.Buffer
		_, err := operate.DiffMaster(t.Context(), p.box, "parcel", &listed, operate.DiffMasterOptions{Content: true})
		require.NoError(t, err)
		found, err := operate.DiffReplica(t.Context(), p.rep, &listed, io.Discard, operate.Options{})
		require.NoError(t, err)
		require.Equal(t, want, found.Unsent)
		require.False(t, found.Equal())

		p = newPair(t, master, copies, "id bigint PRIMARY KEY, title varchar(20)",
			"id bigint PRIMARY KEY, name varchar(20), note varchar(20)", ", map: {name: title}, columns: name")
		p.exec(master, "INSERT INTO parcels (id, title) VALUES (1, 'a'), (2, 'b')")
		require.Empty(t, p.copy())
		require.True(t, p.diff(true).Equal())
		require.Empty(t, p.logged.String())
	})
}

// Book has pages, which the replica keeps in part.
type Book struct {
	bun.BaseModel `bun:"table:books"`

	ID    int64 `bun:",pk"`
	Title string
	Pages []*Page `bun:"rel:has-many,join:id=book_id"`
}

type Page struct {
	bun.BaseModel `bun:"table:pages"`

	ID     int64 `bun:",pk"`
	BookID int64
	Number int64
	Text   string
	Inner  string
}

type BookCopy struct {
	bun.BaseModel `bun:"table:books"`

	ID           int64 `bun:",pk"`
	Title        string
	Shop         string
	Length       int64
	Note         string
	CqrsRevision int64
	Sheets       []*PageCopy `bun:"rel:has-many,join:id=book_id"`
}

type PageCopy struct {
	bun.BaseModel `bun:"table:pages"`

	BookID int64 `bun:",pk"`
	Number int64 `bun:",pk"`
	Text   string
}

// Children, constants and the ledger's own columns are compared; what is computed is named.
func TestEveryColumnIsComparedOrNamed(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		for _, c := range []struct {
			db    *bun.DB
			table any
		}{{master, (*Book)(nil)}, {master, (*Page)(nil)}, {copies, (*BookCopy)(nil)}, {copies, (*PageCopy)(nil)}} {
			_, err := c.db.NewCreateTable().Model(c.table).Exec(t.Context())
			require.NoError(t, err)
		}
		box, err := outbox.New(master, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Book](box, "book", outbox.Relations("Pages")))
		require.NoError(t, box.Migrate(t.Context()))
		rep, err := replica.New(copies, replica.Config{Queue: "q", Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		require.NoError(t, replica.Register[BookCopy](rep, "book", replica.Children("Sheets"), replica.Rename("pages", "sheets"),
			replica.Constant("shop", "s"), replica.Own("note"), replica.Computed("length", func(f replica.Fields) (any, error) {
				return len(f.Values["title"]), nil
			})))
		require.NoError(t, rep.Migrate(t.Context()))
		require.NoError(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			for id := int64(1); id <= 3; id++ {
				if _, err := tx.NewInsert().Model(&Book{ID: id, Title: "t"}).Exec(ctx); err != nil {
					return err
				}
			}
			pages := []*Page{
				{ID: 1, BookID: 2, Number: 2, Text: "b", Inner: "i"}, {ID: 2, BookID: 2, Number: 1, Text: "a"},
				{ID: 3, BookID: 3, Number: 1, Text: "c"},
			}
			_, err := tx.NewInsert().Model(&pages).Exec(ctx)
			return err
		}))
		carry(t.Context(), t, master, rep)
		diff := func() operate.Result {
			result, err := operate.Diff(t.Context(), box, rep, "book", io.Discard, operate.DiffOptions{Content: true})
			require.NoError(t, err)
			carry(t.Context(), t, master, rep)
			return result
		}
		result := diff()
		require.True(t, result.Equal(), "%+v", result)
		require.Equal(t, []string{"length"}, result.NotCompared)
		for _, drift := range []string{
			"UPDATE books SET title = 'u' WHERE id = 1",
			"UPDATE books SET shop = 'r' WHERE id = 1",
			"UPDATE books SET cqrs_revision = 7 WHERE id = 1",
			"UPDATE pages SET text = 'z' WHERE book_id = 2 AND number = 1",
			"DELETE FROM pages WHERE book_id = 3",
			"INSERT INTO pages (book_id, number, text) VALUES (1, 9, 'new')",
			"UPDATE pages SET number = 3 - number WHERE book_id = 2 AND number = 7",
			"UPDATE pages SET text = CASE text WHEN 'a' THEN 'b' ELSE 'a' END WHERE book_id = 2",
		} {
			changed, err := copies.ExecContext(t.Context(), drift)
			require.NoError(t, err)
			n, err := changed.RowsAffected()
			require.NoError(t, err)
			result := diff()
			require.EqualValues(t, min(n, 1), result.Differing, drift)
			require.True(t, diff().Equal(), drift)
		}
		var texts []string
		require.NoError(t, copies.NewSelect().Table("pages").ColumnExpr("text").Order("book_id", "number").Scan(t.Context(), &texts))
		require.Equal(t, "[a b c]", fmt.Sprint(texts))
	})
}
