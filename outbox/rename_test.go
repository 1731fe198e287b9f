package outbox_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

func TestARenamedColumnHasItsNameInEveryMessage(t *testing.T) {
	accounts(t, func(f fixture) {
		f.save(&Account{ID: 1, Name: "a"})
		f.save(&Account{ID: 1, Name: "b"})
		_, err := f.box.Sync(f.Context(), "account", []json.RawMessage{json.RawMessage("1")}, outbox.SyncOptions{Queue: "q"})
		require.NoError(f, err)
		f.remove(&Account{ID: 1})
		var rows []struct{ Data, Previous *string }
		require.NoError(f, f.db.NewSelect().Table("outbox_messages").Column("data", "previous").Order("id").Scan(f.Context(), &rows))
		require.Len(f, rows, 4)
		require.JSONEq(f, `{"id":1,"title":"a","open":false}`, *rows[0].Data)
		require.JSONEq(f, `{"title":null}`, *rows[0].Previous)
		require.JSONEq(f, `{"id":1,"title":"b","open":false}`, *rows[1].Data)
		require.JSONEq(f, `{"title":"a"}`, *rows[1].Previous)
		require.JSONEq(f, `{"id":1,"title":"b","open":false}`, *rows[2].Data)
		require.JSONEq(f, `{"id":1}`, *rows[3].Data)
	}, outbox.Rename("title", "name"), outbox.WithoutColumns("secret"), outbox.TrackPrevious("name"))

	accounts(t, func(f fixture) { // without a read, where the database can tell that the row is so
		f.save(&Account{ID: 1, Name: "a"})
		require.JSONEq(f, `{"id":1,"title":"a","secret":"","open":false}`, string(f.take()[0].Data))
		for page, err := range boxed.Of(f.box).Instances(f.Context(), "account", boxed.Selection{}) {
			require.NoError(f, err)
			require.JSONEq(f, `{"id":1,"title":"a","secret":"","open":false}`, string(page[0].Data))
		}
		fields, err := boxed.Of(f.box).Fields("account")
		require.NoError(f, err)
		require.Equal(f, map[string]string{"id": "id", "name": "title", "secret": "secret", "open": "open"}, fields)
	}, outbox.Rename("title", "name"))

	accounts(t, func(f fixture) {
		f.save(&Account{ID: 1, Name: "a", Secret: "s"})
		require.JSONEq(f, `{"id":1,"secret":"a","name":"s","open":false}`, string(f.take()[0].Data), "two that change names")
	}, outbox.Rename("name", "secret"), outbox.Rename("secret", "name"))
}

func TestNamesThatReplicasCouldNotUseAreRefused(t *testing.T) {
	serializer := outbox.Serializer(func(context.Context, bun.IDB, []*Account) ([]any, error) { return nil, nil })
	for name, c := range map[string]struct {
		options []outbox.Option
		want    string
	}{
		"no column":      {[]outbox.Option{outbox.Rename("x", "nope")}, `Rename("x", "nope") (map in cqrsync.yaml): Account has no such column`},
		"key":            {[]outbox.Option{outbox.Rename("x", "id")}, "the column is the primary key"},
		"another column": {[]outbox.Option{outbox.Rename("secret", "name")}, "the column secret has the name, too: take another one"},
		"two of one":     {[]outbox.Option{outbox.Rename("x", "name"), outbox.Rename("x", "secret")}, "has the name, too"},
		"twice":          {[]outbox.Option{outbox.Rename("x", "name"), outbox.Rename("y", "name")}, "renamed twice"},
		"stamp":          {[]outbox.Option{outbox.Rename("cqrs_revision", "name")}, "the ledger's revision or time"},
		"not sent":       {[]outbox.Option{outbox.Rename("x", "secret"), outbox.WithoutColumns("secret")}, "the column is not sent"},
		"empty":          {[]outbox.Option{outbox.Rename("", "name")}, "want the name of a field"},
		"serializer":     {[]outbox.Option{outbox.Rename("x", "name"), serializer}, "the Serializer names the fields"},
	} {
		box, err := outbox.New(dbtest.Open(t, dbtest.SQLiteURL(t)), outbox.Config{})
		require.NoError(t, err)
		require.ErrorContains(t, outbox.Register[Account](box, "account", c.options...), c.want, name)
	}
	box, err := outbox.New(dbtest.Open(t, dbtest.SQLiteURL(t)), outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Account](box, "account", outbox.Rename("secret", "name"), outbox.WithoutColumns("secret")),
		"the name of a column that is not sent is free")
	require.ErrorContains(t, outbox.Register[Order](box, "order", outbox.Relations("Lines"), outbox.Rename("lines", "status")),
		"the relation Lines has the name, too")
}
