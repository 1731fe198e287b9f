//go:build unix

package django

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// The columns that the Go services have of the shop's tables.
type (
	AccountColumns struct {
		ID      int64 `bun:",pk"`
		Name    string
		Email   *string
		Balance string `bun:"type:numeric(12,2)"`
		Active  bool
		Score   *float64
		Points  int64
		Born    *time.Time `bun:"type:date"`
		Seen    *time.Time
		Profile json.RawMessage `bun:"type:jsonb"`
	}
	PublisherColumns struct {
		ID   int64 `bun:",pk"`
		Name string
	}
	BookColumns struct {
		ID          int64 `bun:",pk"`
		Title       string
		PublisherID *int64
	}
	DeviceColumns struct {
		ID    uuid.UUID `bun:"type:uuid,pk"`
		Label string
	}
	AuthorColumns struct {
		ID        int64 `bun:",pk"`
		ArticleID int64
		Name      string
	}
	// Stamps are kept by a replica that wants them, as Django's do.
	Stamps struct {
		Revision int64     `bun:"cqrs_revision"`
		Updated  time.Time `bun:"cqrs_updated"`
	}
)

// The tables of the Go replica.
type (
	accountCopy struct {
		bun.BaseModel `bun:"table:search_account"`
		AccountColumns
		Stamps
	}
	publisherCopy struct {
		bun.BaseModel `bun:"table:search_publisher"`
		PublisherColumns
		Stamps
	}
	bookCopy struct {
		bun.BaseModel `bun:"table:search_book"`
		BookColumns
		Stamps
	}
	deviceCopy struct {
		bun.BaseModel `bun:"table:search_device"`
		DeviceColumns
		Stamps
	}
	articleCopy struct {
		bun.BaseModel `bun:"table:search_article"`

		ID    int64 `bun:",pk"`
		Title string
		Stamps
		Authors []*authorCopy `bun:"rel:has-many,join:id=article_id"`
	}
	authorCopy struct {
		bun.BaseModel `bun:"table:search_author"`
		AuthorColumns
	}
)

// gopher runs the Go replica until the test ends.
func (d deployment) gopher() *replica.Replica {
	db := dbtest.Open(d, d.databases[gopher])
	for _, model := range []any{
		(*accountCopy)(nil), (*publisherCopy)(nil), (*bookCopy)(nil), (*deviceCopy)(nil),
		(*articleCopy)(nil), (*authorCopy)(nil),
	} {
		_, err := db.NewCreateTable().Model(model).Exec(d.Context())
		require.NoError(d, err)
	}
	quiet := slog.New(slog.DiscardHandler)
	rep, err := replica.New(db, replica.Config{Queue: d.queue(gopher), Logger: quiet})
	require.NoError(d, err)
	require.NoError(d, replica.Register[accountCopy](rep, "account"))
	require.NoError(d, replica.Register[publisherCopy](rep, "publisher"))
	named := replica.Rename("publisher", "publisher_id") // Django sends the field's name
	require.NoError(d, replica.Register[bookCopy](rep, "book", named))
	require.NoError(d, replica.Register[deviceCopy](rep, "device"))
	require.NoError(d, replica.Register[articleCopy](rep, "article", replica.Children("Authors")))
	require.NoError(d, rep.Migrate(d.Context()))
	subscriber, err := open.Subscriber(d.brokerURL(), d.queue(gopher), open.Options{})
	require.NoError(d, err)
	d.reports(rep)
	d.background(func(ctx context.Context) error { return rep.Run(ctx, subscriber) }, subscriber.Close)
	return rep
}

// background runs do until the test ends, and then what closes it.
func (d deployment) background(do func(ctx context.Context) error, close func() error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(d.Context()))
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	d.Cleanup(func() {
		stop()
		if err := <-done; ctx.Err() == nil {
			require.NoError(d, err)
		}
		require.NoError(d, close())
	})
}
