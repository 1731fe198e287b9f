package replica_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// TestManyRowsAreWrittenLikeOne holds the statement for many rows against that for one, with what could be read otherwise.
func TestManyRowsAreWrittenLikeOne(t *testing.T) {
	type Row struct {
		ID    int64 `bun:",pk"`
		Text  *string
		Short string `bun:"type:varchar(12)"`
		Char  string `bun:"type:char(4)"`
		Flag  *bool
		Half  float64
		Price string `bun:"type:numeric(10,2)"`
		Whole int32
		At    time.Time `bun:"type:timestamp(6)"`
		Bytes []byte
		JSON  map[string]any
		List  []string
	}
	texts := []string{
		``, `NULL`, `null`, `it's`, `''`, `'`, `"`, `\`, `\\"`, `{}`, `{a,b}`, `,`, ` a `, "line\nbreak\ttab", `?`, `??`, `$1`, "ü\x01", `\x41`,
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note")
		var messages []*envelope.Message
		for i, text := range texts {
			id := int64(i)
			fields := fmt.Sprintf(`"text":%[1]s,"short":%[2]s,"char":"ab","flag":%[3]t,"half":%[4]v,"price":"%[5]d.5","whole":%[5]d,
				"at":"2026-01-02 03:04:05.000006+01:00","bytes":"AP8=","json":{"k":%[1]s},"list":["a",%[1]s]`,
				quote(t, text), quote(t, strings.ToValidUTF8(text[:min(len(text), 1)], "")), i%2 == 0, float64(i)/8, i)
			if i%5 == 0 {
				fields = `"text":null,"short":"x","char":"a","flag":null,"half":1e300,"price":"-0.05","whole":7,
					"at":"2026-12-31 23:59:59+00:00","bytes":null,"json":null,"list":null`
			}
			messages = append(messages, msg(envelope.Sync, id, 1, fields))
		}
		read := func() (rows []Row) {
			require.NoError(t, db.NewSelect().Model(&rows).Order("id").Scan(t.Context()))
			return rows
		}
		for _, m := range messages {
			f.deliver(m)
		}
		alone := read()
		require.Len(t, alone, len(texts))
		require.NoError(t, mirrored.Of(f.Replica).Clear(t.Context(), "note"))
		results, err := f.Apply(t.Context(), onTheWire(t, messages))
		require.NoError(t, err)
		for i, r := range results {
			require.NoError(t, r.Err, "%q", texts[i])
			require.True(t, r.Applied)
		}
		require.Equal(t, alone, read())
	})
}

// TestAColumnTypeChangesMeanwhile: the catalog was read with the first batch.
func TestAColumnTypeChangesMeanwhile(t *testing.T) {
	type Row struct {
		ID int64     `bun:",pk"`
		At time.Time `bun:"type:date"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		change := "ALTER TABLE rows ALTER COLUMN at TYPE timestamptz"
		switch db.Dialect().Name() {
		case dialect.MySQL:
			change = "ALTER TABLE `rows` MODIFY at datetime(6)"
		case dialect.SQLite:
			t.Skip("SQLite does not change the type of a column")
		}
		f := newFixture(t, db)
		mirror[Row](f, "note")
		for revision := range int64(3) {
			var messages []*envelope.Message
			at := "2026-01-02 03:04:05+00:00"
			if revision == 0 {
				at = "2026-01-01" // a date takes nothing else
			}
			for id := range int64(40) {
				messages = append(messages, msg(envelope.Sync, id, revision, `"at":"`+at+`"`))
			}
			results, err := f.Apply(t.Context(), onTheWire(t, messages))
			require.NoError(t, err)
			for _, r := range results {
				require.NoError(t, r.Err)
			}
			if revision == 0 {
				_, err = db.ExecContext(t.Context(), change)
				require.NoError(t, err)
				continue
			}
			n, err := db.NewSelect().Model((*Row)(nil)).Where("at = '2026-01-02 03:04:05+00'").Count(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 40, n)
		}
	})
}

func quote(t *testing.T, text string) string {
	quoted, err := json.Marshal(text)
	require.NoError(t, err)
	return string(quoted)
}

// TestOneOfManyRowsDoesNotFit: what is cut off by nobody alone is cut off by nobody among many.
func TestOneOfManyRowsDoesNotFit(t *testing.T) {
	type Row struct {
		ID    int64  `bun:",pk"`
		Short string `bun:"type:varchar(3)"`
		Code  string `bun:"type:char(3)"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		anyLength := db.Dialect().Name() == dialect.SQLite // it stores what it is given
		f := newFixture(t, db)
		mirror[Row](f, "note")
		var messages []*envelope.Message
		for id := range int64(40) {
			messages = append(messages, msg(envelope.Sync, id, 1, `"short":"abc","code":"abc"`))
		}
		messages[7] = msg(envelope.Sync, 7, 1, `"short":"abcd","code":"abc"`)
		messages[23] = msg(envelope.Sync, 23, 1, `"short":"abc","code":"abcd"`)
		results, err := f.Apply(t.Context(), onTheWire(t, messages))
		require.NoError(t, err)
		for i, r := range results {
			require.Equal(t, !anyLength && (i == 7 || i == 23), r.Err != nil, "%d: %v", i, r.Err)
		}
		n, err := db.NewSelect().Model((*Row)(nil)).Where("short = 'abc' AND code = 'abc'").Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 38, n)
	})
}
