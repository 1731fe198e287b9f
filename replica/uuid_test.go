package replica_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/column"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// hexBook is a table that Django made on SQLite or an older MariaDB.
type hexBook struct {
	bun.BaseModel `bun:"table:books"`

	ID    column.HexUUID  `bun:",pk,type:char(32)"`
	Other *column.HexUUID `bun:"type:char(32)"`
	Title string
}

// plainBook has the uuid of the database, or a text.
type plainBook struct {
	bun.BaseModel `bun:"table:books"`

	ID    uuid.UUID  `bun:",pk,type:uuid"`
	Other *uuid.UUID `bun:"type:uuid"`
	Title string
}

func bookMessage(signal envelope.Signal, revision int64, id, fields string) *envelope.Message {
	return of("book", signal, `"`+id+`"`, revision, fields)
}

func TestAllSpellingsOfAUUIDAreOneKey(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[hexBook](f, "book")
		requireOneKey(t, f, func(id string) string { return strings.ReplaceAll(id, "-", "") })
	})
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[plainBook](f, "book")
		requireOneKey(t, f, func(id string) string { return id })
	})
}

// requireOneKey delivers messages with three spellings; stored is how the table has a uuid.
func requireOneKey(t *testing.T, f *fixture, stored func(id string) string) {
	const id, other = "5f0c6f5e-0000-4000-8000-0123456789ab", "6f0c6f5e-0000-4000-8000-0123456789ab"
	digits := func(text string) string { return strings.ReplaceAll(text, "-", "") }
	type row struct{ ID, Other, Title string }
	rows := func() (rows []row) {
		require.NoError(t, f.db.NewRaw("SELECT id, other, title FROM books").Scan(t.Context(), &rows))
		return rows
	}
	for i, spelled := range []string{id, digits(id), strings.ToUpper(id)} {
		title := string(rune('a' + i))
		given := []string{other, strings.ToUpper(digits(other)), digits(other)}[i]
		f.deliver(bookMessage(envelope.Save, int64(i), spelled, `"other":"`+given+`","title":"`+title+`"`))
		require.Empty(t, f.deadLetters())
		require.Equal(t, []row{{stored(id), stored(other), title}}, rows())
	}
	var keys []string
	require.NoError(t, f.db.NewRaw("SELECT ? FROM replica_revisions", bun.Ident("key")).Scan(t.Context(), &keys))
	require.Equal(t, []string{id}, keys)
	require.NoError(t, f.WaitFor(t.Context(), "book", digits(id), 2))
	kept, err := mirrored.Of(f.Replica).Lookup(t.Context(), "book", []json.RawMessage{json.RawMessage(`"` + strings.ToUpper(digits(id)) + `"`)}, true)
	require.NoError(t, err)
	require.True(t, kept[0].Present)
	require.EqualValues(t, 2, kept[0].Revision)

	f.deliver(bookMessage(envelope.Delete, 3, digits(id), ""))
	require.Empty(t, f.deadLetters())
	require.Empty(t, rows())

	f.deliver(bookMessage(envelope.Save, 1, "no uuid", `"title":"x"`))
	require.Len(t, f.deadLetters(), 1)
	require.Contains(t, f.deadLetters()[0].Error, `"id"`)
}

func TestAUUIDThatItsColumnDoesNotHoldIsRefusedWithTheTypeThatHelps(t *testing.T) {
	type wrong struct {
		bun.BaseModel `bun:"table:books"`

		ID    uuid.UUID        `bun:",pk,type:char(32)"`
		Other column.HexUUID   `bun:"type:varchar(36)"`
		Third column.TextUUID  `bun:"type:char(32)"`
		Right *column.TextUUID `bun:"type:varchar(36)"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[wrong](f, "book")
		err := f.CheckTables(t.Context())
		require.ErrorContains(t, err, `column "id" is `)
		require.ErrorContains(t, err, "make the field a column.HexUUID")
		require.ErrorContains(t, err, `column "third"`)
		require.NotContains(t, err.Error(), `"right"`)
	})
}

func TestATextInAColumnOfUUIDsWithoutHyphensIsRefused(t *testing.T) {
	type text struct {
		bun.BaseModel `bun:"table:books"`

		ID    string `bun:",pk,type:varchar(40)"`
		Other string `bun:"type:char(32)"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[text](f, "book")
		f.deliver(bookMessage(envelope.Save, 1, "a", `"other":"5f0c6f5e-0000-4000-8000-0123456789ab"`))
		require.Len(t, f.deadLetters(), 1)
		require.Contains(t, f.deadLetters()[0].Error, "types: {COLUMN: uuid} in cqrsync.yaml, column.HexUUID in Go")
	})
}
