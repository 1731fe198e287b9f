package outbox_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Book has a relation of each kind.
type Book struct {
	bun.BaseModel `bun:"table:books"`
	outbox.Tracked

	ID       int64 `bun:",pk"`
	AuthorID int64
	Title    string
	Author   *Author    `bun:"rel:belongs-to,join:author_id=id"`
	Cover    *Cover     `bun:"rel:has-one,join:id=book_id"`
	Chapters []*Chapter `bun:"rel:has-many,join:id=book_id"`
	Tags     []Tag      `bun:"m2m:books_tags,join:Book=Tag"`
}

type Author struct {
	bun.BaseModel `bun:"table:authors"`
	ID            int64 `bun:",pk"`
	Name          string
}

type Cover struct {
	bun.BaseModel `bun:"table:covers"`
	ID            int64 `bun:",pk"`
	BookID        int64
	Color         string
}

type Chapter struct {
	bun.BaseModel `bun:"table:chapters"`
	ID            int64 `bun:",pk"`
	BookID        int64
	Name          string
}

type Tag struct {
	bun.BaseModel `bun:"table:tags"`
	ID            int64 `bun:",pk"`
	Word          string
}

type BookTag struct {
	bun.BaseModel `bun:"table:books_tags"`
	BookID        int64 `bun:",pk"`
	Book          *Book `bun:"rel:belongs-to,join:book_id=id"`
	TagID         int64 `bun:",pk"`
	Tag           *Tag  `bun:"rel:belongs-to,join:tag_id=id"`
}

func newLibrary(t *testing.T, db *bun.DB) fixture {
	db.RegisterModel((*BookTag)(nil))
	for _, table := range []any{(*Book)(nil), (*Author)(nil), (*Cover)(nil), (*Chapter)(nil), (*Tag)(nil), (*BookTag)(nil)} {
		require.NoError(t, exec(db.NewCreateTable().Model(table).Exec(t.Context())))
	}
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Book](box, "book", outbox.Relations("Author", "Cover", "Chapters", "Tags")))
	require.NoError(t, box.Migrate(t.Context()))
	return fixture{t, db, box}
}

// write fills n books with two chapters and two tags each.
func (f fixture) writeBooks(n int) {
	f.Helper()
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		var books []Book
		var covers []Cover
		var chapters []Chapter
		var tags []BookTag
		for i := range int64(n) {
			books = append(books, Book{ID: i, AuthorID: 7, Title: fmt.Sprint("book ", i)})
			covers = append(covers, Cover{ID: i, BookID: i, Color: "red"})
			for c := range int64(2) {
				chapters = append(chapters, Chapter{ID: 10*i + c, BookID: i, Name: "c"})
				tags = append(tags, BookTag{BookID: i, TagID: c})
			}
		}
		for _, rows := range []any{&[]Author{{ID: 7, Name: "Ann"}}, &[]Tag{{ID: 0, Word: "x"}, {ID: 1, Word: "y"}}, &books, &covers, &chapters, &tags} {
			if _, err := tx.NewInsert().Model(rows).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	}))
}

func TestEveryKindOfRelationTravels(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newLibrary(t, db)
		f.writeBooks(3)
		messages := f.take()
		require.Equal(t, []string{"book 0 0 SAVE", "book 1 0 SAVE", "book 2 0 SAVE"}, summary(messages))
		require.JSONEq(t, `{"id":2,"author_id":7,"title":"book 2","author":{"id":7,"name":"Ann"},
			"cover":{"id":2,"book_id":2,"color":"red"},
			"chapters":[{"id":20,"book_id":2,"name":"c"},{"id":21,"book_id":2,"name":"c"}],
			"tags":[{"id":0,"word":"x"},{"id":1,"word":"y"}]}`, string(messages[2].Data))
	})
}

// counter counts the statements that pass through bun.
type counter struct {
	mu         sync.Mutex
	statements []string
}

func (c *counter) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statements = append(c.statements, event.Query)
	return ctx
}

func (*counter) AfterQuery(context.Context, *bun.QueryEvent) {}

func (c *counter) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.statements)
	c.statements = nil
	return n
}

// A transaction costs the same number of statements however many rows it writes, with relations and
// without.
func TestNumberOfStatementsDoesNotDependOnTheNumberOfRows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		statements := &counter{}
		db.AddQueryHook(statements) //nolint:staticcheck // before the box's own
		f := newLibrary(t, db)
		require.NoError(t, exec(f.db.NewCreateTable().Model((*Note)(nil)).Exec(t.Context())))
		require.NoError(t, outbox.Register[Note](f.box, "note"))
		notes := func(prefix string, n int) {
			rows := make([]Note, n)
			for i := range rows {
				rows[i].Slug = fmt.Sprint(prefix, i)
			}
			require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&rows).Exec(ctx))
			}))
		}
		clear := func() {
			for _, table := range []string{"books", "authors", "covers", "chapters", "tags", "books_tags"} {
				require.NoError(t, exec(db.ExecContext(outbox.Explicit(t.Context()), "DELETE FROM "+table)))
			}
		}
		f.writeBooks(2) // the first transaction also asks for the tables and lanes
		notes("first ", 2)
		clear()
		statements.take()
		notes("few ", 2)
		few := statements.take()
		notes("many ", 900)
		require.Equal(t, few, statements.take(), "rows alone")
		f.writeBooks(2)
		few = statements.take()
		clear()
		statements.take()
		f.writeBooks(200)
		require.Equal(t, few, statements.take(), "rows with four relations")
	})
}

func TestTenThousandRowsInOneStatement(t *testing.T) {
	each(t, func(f fixture) {
		rows := make([]Note, 10_000)
		for i := range rows {
			rows[i] = Note{Slug: fmt.Sprintf("n%05d", i), Text: strings.Repeat("it's ' \\ \" quoted ", 3)}
		}
		f.insert(&rows)
		messages := f.take()
		require.Len(f, messages, len(rows))
		for i, m := range messages {
			require.Equal(f, rows[i].Slug, m.Key)
		}
	})
}
