package outbox_test

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Visit has the columns whose values a database may hold and a replica may not read.
type Visit struct {
	bun.BaseModel `bun:"table:visits"`
	outbox.Tracked

	ID    int64 `bun:",pk"`
	At    time.Time
	Seen  *time.Time
	Gone  bun.NullTime
	Day   time.Time `bun:"type:date"`
	Text  string
	Named Status
	Parts map[string][]string `bun:"type:json"`
	Raw   json.RawMessage     `bun:"type:json"`
}

func newVisits(t *testing.T, db *bun.DB) fixture {
	require.NoError(t, exec(db.NewCreateTable().Model((*Visit)(nil)).Exec(t.Context())))
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Visit](box, "visit"))
	require.NoError(t, box.Migrate(t.Context()))
	return fixture{t, db, box}
}

// requireRefused commits nothing, and names model, key and column.
func (f fixture) requireRefused(err error, column, reason string) {
	f.Helper()
	var refused *outbox.ValueError
	require.ErrorAs(f, err, &refused, column)
	require.NotEmpty(f, refused.Fix)
	require.ErrorContains(f, err, "model visit")
	require.ErrorContains(f, err, "key 7")
	require.ErrorContains(f, err, "column "+column)
	require.ErrorContains(f, err, reason)
	n, err := f.db.NewSelect().Model((*Visit)(nil)).Count(f.Context())
	require.NoError(f, err)
	require.Zero(f, n)
	require.Empty(f, f.take())
}

func TestTimesThatNoReplicaReadsAreRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newVisits(t, db)
		ok := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		years := []int{10000, 12026, 0, -43}
		if db.Dialect().Name() == dialect.MySQL {
			years = nil // MariaDB has none of them
		}
		for _, year := range years {
			bad := time.Date(year, 2, 3, 4, 5, 6, 0, time.UTC)
			for column, visit := range map[string]*Visit{
				"at":   {At: bad, Day: ok},
				"seen": {At: ok, Day: ok, Seen: &bad},
				"gone": {At: ok, Day: ok, Gone: bun.NullTime{Time: bad}},
				"day":  {At: ok, Day: bad},
			} {
				if column == "day" && db.Dialect().Name() == dialect.PG && year < 1 {
					continue // bun writes no date before Christ that PostgreSQL reads
				}
				visit.ID = 7
				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					return exec(tx.NewInsert().Model(visit).Exec(ctx))
				})
				if db.Dialect().Name() == dialect.PG && year < 1 && !strings.Contains(err.Error(), "outbox:") {
					continue // the statement itself failed
				}
				f.requireRefused(err, column, "the years 1 to 9999")
			}
		}
		for _, year := range []int{1, 9999} {
			if db.Dialect().Name() == dialect.MySQL && year == 1 {
				continue
			}
			edge := time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)
			f.insert(&Visit{ID: int64(year), At: edge, Day: edge, Seen: &edge})
		}
	})
}

// What bun cannot write the database can hold all the same.
func TestTimesWithoutEndAreRefused(t *testing.T) {
	f := newVisits(t, dbtestPostgres(t))
	for _, value := range []string{"infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "12026-01-01 00:00:00+00"} {
		for _, column := range []string{"at", "seen", "gone", "day"} {
			err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
				if err := exec(tx.NewInsert().Model(&Visit{ID: 7}).Exec(ctx)); err != nil {
					return err
				}
				return exec(tx.NewUpdate().Model(&Visit{ID: 7}).Set("? = ?", bun.Ident(column), value).WherePK().Exec(ctx))
			})
			f.requireRefused(err, column, "")
		}
	}
}

func TestTextsThatJSONOrADatabaseDoesNotHoldAreRefused(t *testing.T) {
	const invalid = "caf\xe9"
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newVisits(t, db)
		values := map[string]any{
			"text": invalid, "named": invalid, "raw": `{"a":"` + invalid + `"}`, "parts": `{"a":["` + invalid + `"]}`,
		}
		switch db.Dialect().Name() {
		case dialect.PG:
			return // holds no such text
		case dialect.MySQL: // only in a column of bytes
			for column := range values {
				_, err := db.NewRaw("ALTER TABLE visits MODIFY ? varbinary(100)", bun.Ident(column)).Exec(t.Context())
				require.NoError(t, err)
			}
		}
		write := func(column string, value any) error {
			return f.inTx(func(ctx context.Context, tx bun.Tx) error {
				if err := exec(tx.NewInsert().Model(&Visit{ID: 7}).Exec(ctx)); err != nil {
					return err
				}
				set := tx.NewUpdate().Model(&Visit{ID: 7}).Set("? = ?", bun.Ident(column), value)
				return exec(set.WherePK().Exec(ctx))
			})
		}
		for column, value := range values {
			if column == "parts" {
				continue // encoding/json replaces the bytes when bun reads them: nobody can know
			}
			f.requireRefused(write(column, []byte(value.(string))), column, "UTF-8")
		}
		f.requireRefused(write("text", []byte("a\x00b")), "text", "NUL")
		f.requireRefused(write("named", []byte("a\x00b")), "named", "NUL")
		require.NoError(t, write("text", "U+FFFD is a character: \ufffd, and \\ufffd is a text"))
		require.Contains(t, string(f.take()[0].Data), "is a character: \ufffd, and")
	})
}

// Values of several parts, as a relation, a serializer, meta or DeleteData makes them.
func TestTextsWithinValuesAreChecked(t *testing.T) {
	type Doc struct {
		Title string
		Tags  []string
		More  map[string]any
		Raw   json.RawMessage
		Inner *Doc
		When  []time.Time
	}
	const invalid = "caf\xe9"
	good := Doc{Title: "\ufffd", Raw: json.RawMessage(`"\ufffd"`), Tags: []string{`\ufffd`, "caf\u00e9"}}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		commit := func(meta any) error {
			return f.box.RunInTx(outbox.WithMeta(t.Context(), map[string]any{"m": meta}), nil,
				func(ctx context.Context, tx bun.Tx) error {
					if err := exec(tx.NewDelete().Model(&Note{Slug: "n"}).WherePK().Exec(ctx)); err != nil {
						return err
					}
					return exec(tx.NewInsert().Model(&Note{Slug: "n"}).Exec(ctx))
				})
		}
		require.NoError(t, commit(good))
		for at, doc := range map[string]any{
			"Title": Doc{Title: invalid}, "Tags.1": Doc{Tags: []string{"a", invalid}}, "More": Doc{More: map[string]any{invalid: 1}},
			"More.a": Doc{More: map[string]any{"a": invalid}}, "Inner.Title": &Doc{Inner: &Doc{Title: invalid}},
			"": Doc{Raw: json.RawMessage(`"` + invalid + `"`)}, "When.0": Doc{When: []time.Time{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)}},
		} {
			err := commit(doc)
			var refused *outbox.ValueError
			require.ErrorAs(t, err, &refused, at)
			require.ErrorContains(t, err, "meta")
			require.ErrorContains(t, err, at)
		}
	})
}

func TestCorrelationIDsAndHeadersThatABrokerDoesNotTakeAreRefused(t *testing.T) {
	long := strings.Repeat("x", 256)
	header := func(name, value string) func(context.Context) context.Context {
		return func(ctx context.Context) context.Context {
			return outbox.WithHeaders(ctx, map[string]string{name: value})
		}
	}
	correlation := func(id string) func(context.Context) context.Context {
		return func(ctx context.Context) context.Context { return outbox.WithCorrelationID(ctx, id) }
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		commit := func(with func(context.Context) context.Context) error {
			return f.box.RunInTx(with(t.Context()), nil, func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Order{Number: fmt.Sprint(time.Now().UnixNano())}).Exec(ctx))
			})
		}
		for want, with := range map[string]func(context.Context) context.Context{
			"correlation id: it has a NUL":             correlation("a\x00b"),
			"correlation id: it is not valid UTF-8":    correlation("caf\xe9"),
			"correlation id: it has 256 bytes":         correlation(long),
			`header "CC"`:                              header("CC", "stats"),
			`header "bcc"`:                             header("bcc", "stats"),
			`header "x\x00y"`:                          header("x\x00y", "v"),
			`header "x y"`:                             header("x y", "v"),
			`header "x:y"`:                             header("x:y", "v"),
			`header "caf\xe9"`:                         header("caf\xe9", "v"),
			`header "x`:                                header(long, "v"),
			`header "nul": its value: it has a NUL`:    header("nul", "a\x00b"),
			`header "line": its value has a line`:      header("line", "a\r\nb"),
			`header "utf": its value: it is not valid`: header("utf", "caf\xe9"),
			"16385 bytes":                              header("y", strings.Repeat("y", 16384)),
			"cqrsync's own":                            header("CQRS_key", "1"),
			`header "_watermill_message_uuid"`:         header("_watermill_message_uuid", "1"),
		} {
			require.ErrorContains(t, commit(with), want)
			require.Empty(t, f.take())
		}
		require.NoError(t, commit(correlation(long[1:])))
		require.NoError(t, commit(header(long[1:], "é")))
		require.NoError(t, commit(header("y", strings.Repeat("y", 16383))))
	})
}

func TestTouchDoesNotConvertLossily(t *testing.T) {
	type Small struct {
		bun.BaseModel `bun:"table:smalls"`
		ID            int32 `bun:",pk"`
	}
	type Unsigned struct {
		bun.BaseModel `bun:"table:unsigneds"`
		ID            uint16 `bun:",pk"`
	}
	type Real struct {
		bun.BaseModel `bun:"table:reals"`
		ID            float32 `bun:",pk"`
	}
	type Fixed struct {
		bun.BaseModel `bun:"table:fixeds"`
		ID            [4]byte `bun:",pk"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for _, model := range []any{(*Small)(nil), (*Unsigned)(nil), (*Real)(nil), (*Fixed)(nil)} {
		require.NoError(t, exec(f.db.NewCreateTable().Model(model).Exec(t.Context())))
	}
	require.NoError(t, outbox.Register[Small](f.box, "small"))
	require.NoError(t, outbox.Register[Unsigned](f.box, "unsigned"))
	require.NoError(t, outbox.Register[Real](f.box, "real"))
	require.NoError(t, outbox.Register[Fixed](f.box, "fixed"))
	require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		for _, key := range []any{
			int64(1)<<32 + 5, uint64(1) << 40, int64(-1 << 40), 1.9, math.NaN(), math.Inf(1), 1e300, "5", []byte("5"), true, nil, struct{}{},
			[]rune("5"), uint64(math.MaxUint64), float32(0.5), 'x' + 0.5,
		} {
			require.Error(t, outbox.Touch[Small](ctx, tx, key), "%T %v", key, key)
		}
		for _, key := range []any{-1, 1 << 16, uint64(1) << 63, 65536.0, -1.0, 0.5} {
			require.Error(t, outbox.Touch[Unsigned](ctx, tx, key), "%T %v", key, key)
		}
		for _, key := range []any{0.1, 1e300, 1<<24 + 1, uint64(math.MaxUint64), math.NaN()} {
			require.Error(t, outbox.Touch[Real](ctx, tx, key), "%T %v", key, key)
		}
		for _, key := range []any{[]byte("12345"), [5]byte{}, "1234", 7} {
			require.Error(t, outbox.Touch[Fixed](ctx, tx, key), "%T %v", key, key)
		}
		for _, key := range []any{5, int8(5), uint64(5), 5.0, float32(5), time.Duration(5)} {
			require.NoError(t, outbox.Touch[Small](ctx, tx, key), "%T %v", key, key)
		}
		require.NoError(t, outbox.Touch[Unsigned](ctx, tx, 65535))
		require.NoError(t, outbox.Touch[Real](ctx, tx, 0.5, 3))
		return outbox.Touch[Note](ctx, tx, Status("slug"))
	}))
}

// pgtype's times say what time.Time cannot, and write it into their JSON.
func TestInfiniteTimesOfPgtypeAreRefused(t *testing.T) {
	type Term struct {
		bun.BaseModel `bun:"table:terms"`
		ID            int64              `bun:",pk"`
		Until         pgtype.Timestamptz `bun:"type:timestamptz"`
		Day           pgtype.Date        `bun:"type:date"`
	}
	f := newFixture(t, dbtestPostgres(t))
	require.NoError(t, exec(f.db.NewCreateTable().Model((*Term)(nil)).Exec(t.Context())))
	require.NoError(t, outbox.Register[Term](f.box, "term"))
	now := pgtype.Timestamptz{Time: time.Now(), Valid: true}
	write := func(term *Term) error {
		return f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(term).Exec(ctx))
		})
	}
	require.NoError(t, write(&Term{ID: 1, Until: now}))
	var refused *outbox.ValueError
	err := write(&Term{ID: 2, Until: pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}})
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "column until")
	err = write(&Term{ID: 3, Until: now, Day: pgtype.Date{Valid: true, InfinityModifier: pgtype.NegativeInfinity}})
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "column day")
}

// Label makes a text of itself.
type Label struct{ Text string }

func (l Label) MarshalText() ([]byte, error) { return []byte(l.Text), nil }
func (l Label) Value() (driver.Value, error) { return []byte(l.Text), nil }

func (l *Label) Scan(src any) error {
	l.Text = string(src.([]byte)) //nolint:forcetypeassert // a column of bytes
	return nil
}

func TestTextsThatTypesMakeOfThemselvesAreChecked(t *testing.T) {
	type Labelled struct {
		bun.BaseModel `bun:"table:labelled"`
		ID            int64 `bun:",pk"`
		Label         Label `bun:"type:blob"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	require.NoError(t, exec(f.db.NewCreateTable().Model((*Labelled)(nil)).Exec(t.Context())))
	require.NoError(t, outbox.Register[Labelled](f.box, "labelled"))
	write := func(text string) error {
		return f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Labelled{ID: 1, Label: Label{text}}).Exec(ctx))
		})
	}
	for _, text := range []string{"a\x00b", "caf\xe9"} {
		var refused *outbox.ValueError
		require.ErrorAs(t, write(text), &refused)
	}
	require.NoError(t, write(`\u0000 is no NUL, and \ufffd replaces nothing`))
}
