package outbox_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/column"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

const someUUID, otherUUID = "5f0c6f5e-0000-4000-8000-0123456789ab", "6f0c6f5e-0000-4000-8000-0123456789ab"

// Django makes char(32) where the database has no type for a uuid, and others binary(16).
func TestUUIDsTravelInOneSpelling(t *testing.T) {
	type Hex struct {
		bun.BaseModel `bun:"table:hex_books"`
		outbox.Tracked
		ID    column.HexUUID  `bun:",pk,type:char(32)"`
		Other *column.HexUUID `bun:"type:char(32)"`
		Title string
	}
	type Binary struct {
		bun.BaseModel `bun:"table:binary_books"`
		outbox.Tracked
		ID    column.BinaryUUID  `bun:",pk,type:binary(16)"`
		Other *column.BinaryUUID `bun:"type:binary(16)"`
		Title string
	}
	type Text struct {
		bun.BaseModel `bun:"table:text_books"`
		outbox.Tracked
		ID    column.TextUUID  `bun:",pk,type:char(36)"`
		Other *column.TextUUID `bun:"type:char(36)"`
		Title string
	}
	type Native struct {
		bun.BaseModel `bun:"table:native_books"`
		outbox.Tracked
		ID    uuid.UUID  `bun:",pk,type:uuid"`
		Other *uuid.UUID `bun:"type:uuid"`
		Title string
	}
	id, other := uuid.MustParse(someUUID), uuid.MustParse(otherUUID)
	hexOther, binaryOther, textOther := column.HexUUID(other), column.BinaryUUID(other), column.TextUUID(other)
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		requireOneSpelling(f, "hex", &Hex{ID: column.HexUUID(id), Title: "a"}, &Hex{ID: column.HexUUID(id), Other: &hexOther, Title: "b"})
		requireOneSpelling(f, "text", &Text{ID: column.TextUUID(id), Title: "a"}, &Text{ID: column.TextUUID(id), Other: &textOther, Title: "b"})
		requireOneSpelling(f, "native", &Native{ID: id, Title: "a"}, &Native{ID: id, Other: &other, Title: "b"})
		if db.Dialect().Name() != dialect.PG { // it has bytea, which the tests of cqrsync.yaml try
			requireOneSpelling(f, "binary", &Binary{ID: column.BinaryUUID(id), Title: "a"}, &Binary{ID: column.BinaryUUID(id), Other: &binaryOther, Title: "b"})
		}
	})
}

// requireOneSpelling inserts a row, makes it another, sends it again, and deletes it.
func requireOneSpelling[T any](f fixture, model string, first, second *T) {
	f.Helper()
	require.NoError(f, exec(f.db.NewCreateTable().Model((*T)(nil)).Exec(f.Context())))
	require.NoError(f, outbox.Register[T](f.box, model))
	require.NoError(f, f.box.Check(f.Context()))
	for _, write := range []func(ctx context.Context, tx bun.Tx) error{
		func(ctx context.Context, tx bun.Tx) error { return exec(tx.NewInsert().Model(first).Exec(ctx)) },
		func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(second).WherePK().Exec(ctx))
		},
	} {
		require.NoError(f, f.inTx(write))
	}
	spelled := json.RawMessage(`"` + strings.ToUpper(strings.ReplaceAll(someUUID, "-", "")) + `"`)
	sent, err := f.box.Sync(f.Context(), model, []json.RawMessage{spelled}, outbox.SyncOptions{})
	require.NoError(f, err)
	require.Equal(f, 1, sent)
	found, err := boxed.Of(f.box).Lookup(f.Context(), model, []json.RawMessage{spelled})
	require.NoError(f, err)
	require.Equal(f, `"`+someUUID+`"`, string(found[0].PK))
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewDelete().Model(second).WherePK().Exec(ctx))
	}))
	messages := f.take()
	require.Equal(f, []string{
		model + " " + someUUID + " 0 SAVE", model + " " + someUUID + " 1 SAVE", model + " " + someUUID + " 1 SYNC", model + " " + someUUID + " 2 DELETE",
	}, summary(messages))
	require.JSONEq(f, `{"id":"`+someUUID+`","other":null,"title":"a"}`, string(messages[0].Data))
	require.JSONEq(f, `{"id":"`+someUUID+`","other":"`+otherUUID+`","title":"b"}`, string(messages[1].Data))
}

// The statements are those of docs/types.md.
var respell = map[dialect.Name]string{
	dialect.PG: "UPDATE outbox_revisions SET key = key::uuid::text WHERE model = 'book'",
	dialect.MySQL: "UPDATE outbox_revisions SET `key` = LOWER(CONCAT_WS('-', SUBSTR(`key`, 1, 8), SUBSTR(`key`, 9, 4), " +
		"SUBSTR(`key`, 13, 4), SUBSTR(`key`, 17, 4), SUBSTR(`key`, 21))) WHERE model = 'book' AND LENGTH(`key`) = 32",
	dialect.SQLite: "UPDATE outbox_revisions SET key = lower(substr(key, 1, 8) || '-' || substr(key, 9, 4) || '-' || " +
		"substr(key, 13, 4) || '-' || substr(key, 17, 4) || '-' || substr(key, 21)) WHERE model = 'book' AND length(key) = 32",
}

func TestKeysThatWereSentInAnotherSpellingAreRespelledFirst(t *testing.T) {
	type Before struct {
		bun.BaseModel `bun:"table:books"`
		ID            string `bun:",pk,type:char(32)"`
		Title         string
	}
	type After struct {
		bun.BaseModel `bun:"table:books"`
		ID            column.HexUUID `bun:",pk,type:char(32)"`
		Title         string
	}
	page, err := os.ReadFile("../docs/types.md")
	require.NoError(t, err)
	flat := strings.Join(strings.Fields(string(page)), " ")
	for kind, newURL := range dbtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			before := dbtest.Open(t, url)
			require.NoError(t, exec(before.NewCreateTable().Model((*Before)(nil)).Exec(t.Context())))
			box, err := outbox.New(before, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, box.Migrate(t.Context()))
			require.NoError(t, outbox.Register[Before](box, "book"))
			f := fixture{t, before, box}
			f.insert(&Before{ID: strings.ReplaceAll(someUUID, "-", ""), Title: "a"})
			f.take()

			after := dbtest.Open(t, url)
			box, err = outbox.New(after, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, outbox.Register[After](box, "book"))
			require.ErrorContains(t, box.Check(t.Context()), "which the model spells \""+someUUID)
			statement := respell[after.Dialect().Name()]
			require.Contains(t, flat, statement)
			_, err = after.DB.ExecContext(t.Context(), statement)
			require.NoError(t, err)
			require.NoError(t, box.Check(t.Context()))
			f = fixture{t, after, box}
			require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewUpdate().Model(&After{ID: column.HexUUID(uuid.MustParse(someUUID)), Title: "b"}).WherePK().Exec(ctx))
			}))
			require.Equal(t, []string{"book " + someUUID + " 1 SAVE"}, summary(f.take()))
		})
	}
}

func TestAUUIDThatItsColumnDoesNotHoldIsFoundByCheck(t *testing.T) {
	type Wrong struct {
		bun.BaseModel `bun:"table:books"`
		ID            uuid.UUID       `bun:",pk,type:char(32)"`
		Other         column.TextUUID `bun:"type:char(32)"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		require.NoError(t, exec(db.NewCreateTable().Model((*Wrong)(nil)).Exec(t.Context())))
		require.NoError(t, outbox.Register[Wrong](f.box, "book"))
		err := f.box.Check(t.Context())
		require.ErrorContains(t, err, "column id of table books")
		require.ErrorContains(t, err, "make the field a column.HexUUID")
		require.ErrorContains(t, err, "column other of table books")
	})
}
