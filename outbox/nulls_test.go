package outbox_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Gauge has columns of whose values the Go type shows the same for NULL and for zero.
type Gauge struct {
	bun.BaseModel `bun:"table:gauges"`
	outbox.Tracked

	ID      int64        `bun:",pk,autoincrement"`
	Retries int64        `bun:",nullzero,notnull,default:0"`
	Note    string       `bun:",nullzero,notnull,default:''"`
	Active  bool         `bun:",nullzero,notnull,default:true"`
	Word    string       `bun:",nullzero"`
	Number  int32        `bun:",nullzero"`
	Size    uint16       `bun:",nullzero"`
	Flag    bool         `bun:",nullzero"`
	Ratio   float64      `bun:",nullzero"`
	Status  Status       `bun:",nullzero"`
	Blob    []byte       `bun:",nullzero"`
	Label   *string      `bun:",nullzero"`
	At      time.Time    `bun:",nullzero"`
	Gone    bun.NullTime `bun:",nullzero"`
	Unique  uuid.UUID    `bun:",nullzero,type:uuid"`
	Text    string
	Count   int64
	Yes     bool
	Share   float64
	When    time.Time
	Object  Geo `bun:"type:json"`
}

var gaugeColumns = []string{
	"retries", "note", "active", "word", "number", "size", "flag", "ratio", "status", "blob", "label", "at", "gone",
	"unique", "text", "count", "yes", "share", "when", "object",
}

// zeros are the zero values of the columns in the database and on the wire.
func zeros(name dialect.Name) (sql map[string]any, wire map[string]string) {
	sql = map[string]any{
		"retries": 0, "note": "", "active": false, "word": "", "number": 0, "size": 0, "flag": false, "ratio": 0.0,
		"status": "", "blob": []byte{}, "label": "", "unique": uuid.UUID{}.String(), "text": "", "count": 0, "yes": false,
		"share": 0.0, "object": `{"Lat":0,"Lon":0}`,
	}
	wire = map[string]string{
		"retries": `0`, "note": `""`, "active": `false`, "word": `""`, "number": `0`, "size": `0`, "flag": `false`,
		"ratio": `0`, "status": `""`, "blob": `""`, "label": `""`, "text": `""`, "count": `0`, "yes": `false`, "share": `0`,
		"unique": `"00000000-0000-0000-0000-000000000000"`, "object": `{"Lat":0,"Lon":0}`,
	}
	if name != dialect.MySQL { // which has no year 1 in a DATETIME that it promises to keep
		for _, column := range []string{"at", "gone", "when"} {
			sql[column], wire[column] = time.Time{}, `"0001-01-01 00:00:00+00:00"`
		}
	}
	return sql, wire
}

func newGauges(t *testing.T, db *bun.DB, options ...outbox.Option) fixture {
	require.NoError(t, exec(db.NewCreateTable().Model((*Gauge)(nil)).Exec(t.Context())))
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Gauge](box, "gauge", options...))
	require.NoError(t, box.Migrate(t.Context()))
	return fixture{t, db, box}
}

// setGauge writes what no whole-row statement of bun writes.
func (f fixture) setGauge(id int64, values map[string]any) {
	f.Helper()
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		query := tx.NewUpdate().Model(&Gauge{ID: id}).WherePK()
		for column, value := range values {
			query = query.Set("? = ?", bun.Ident(column), value)
		}
		return exec(query.Exec(ctx))
	}))
}

// requireAsStored compares a message with the table: null where the column is NULL, and nowhere
// else.
func (f fixture) requireAsStored(id int64, data json.RawMessage) map[string]string {
	f.Helper()
	var sent map[string]json.RawMessage
	require.NoError(f, json.Unmarshal(data, &sent))
	wire := map[string]string{}
	for _, column := range gaugeColumns {
		var isNull bool
		require.NoError(f, f.db.NewRaw("SELECT ? IS NULL FROM gauges WHERE id = ?", bun.Ident(column), id).Scan(f.Context(), &isNull))
		require.Equal(f, isNull, string(sent[column]) == "null", "%s: NULL is %v, sent %s", column, isNull, sent[column])
		wire[column] = string(sent[column])
	}
	return wire
}

func TestAZeroIsSentAsTheDatabaseHoldsIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newGauges(t, db)
		values, wire := zeros(db.Dialect().Name())

		f.insert(&Gauge{Text: "defaults"})
		inserted := f.take()
		require.Len(t, inserted, 1)
		f.requireAsStored(1, inserted[0].Data)

		f.setGauge(1, values)
		set := f.take()
		require.Len(t, set, 1)
		got := f.requireAsStored(1, set[0].Data)
		for column, value := range wire {
			require.Equal(t, value, got[column], column)
		}

		nulls := map[string]any{}
		for _, column := range gaugeColumns[3:] {
			nulls[column] = nil
		}
		f.setGauge(1, nulls)
		nulled := f.take()
		require.Len(t, nulled, 1)
		f.requireAsStored(1, nulled[0].Data)

		require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			row := &Gauge{ID: 1, Retries: 1, Note: "x", Active: true}
			return exec(tx.NewUpdate().Model(row).WherePK().Exec(ctx)) // NULL for what is nullzero, zero for the others
		}))
		whole := f.take()
		require.Len(t, whole, 1)
		f.requireAsStored(1, whole[0].Data)
	})
}

// What bun writes for the zero value of a column with a default is the default, whatever that is.
func TestADefaultThatIsZeroIsSentAsSuch(t *testing.T) {
	type Plain struct {
		bun.BaseModel `bun:"table:plain"`
		ID            int64  `bun:",pk,autoincrement"`
		Retries       int64  `bun:",nullzero,notnull,default:0"`
		Note          string `bun:",nullzero,notnull,default:''"`
		Active        bool   `bun:",notnull,default:true"`
		Text          string
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		require.NoError(t, exec(db.NewCreateTable().Model((*Plain)(nil)).Exec(t.Context())))
		require.NoError(t, outbox.Register[Plain](f.box, "plain"))
		f.insert(&[]Plain{{Text: "x"}, {Text: "y"}})
		messages := f.take()
		require.Len(t, messages, 2)
		require.JSONEq(t, `{"id":1,"retries":0,"note":"","active":true,"text":"x"}`, string(messages[0].Data))
		require.JSONEq(t, `{"id":2,"retries":0,"note":"","active":true,"text":"y"}`, string(messages[1].Data))
	})
}

func TestPreviousValuesTellZeroFromNull(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newGauges(t, db, outbox.TrackPrevious("word", "text"))
		previous := func() string {
			var found []json.RawMessage
			require.NoError(t, db.NewSelect().Table("outbox_messages").Column("previous").Scan(t.Context(), &found))
			require.Len(t, found, 1)
			f.take()
			return string(found[0])
		}
		f.insert(&Gauge{Word: "w", Text: "t"})
		f.take()
		f.setGauge(1, map[string]any{"word": "", "text": ""})
		require.JSONEq(t, `{"word":"w","text":"t"}`, previous())
		f.setGauge(1, map[string]any{"word": nil, "text": nil})
		require.JSONEq(t, `{"word":"","text":""}`, previous())
		f.setGauge(1, map[string]any{"word": "", "text": ""})
		require.JSONEq(t, `{"word":null,"text":null}`, previous())
	})
}

func TestDumpsAndSyncsTellZeroFromNull(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newGauges(t, db)
		values, _ := zeros(db.Dialect().Name())
		f.insert(&[]Gauge{{Text: "nulls"}, {Text: "zeros"}})
		f.setGauge(2, values)
		f.take()

		seen := int64(0)
		for page, err := range boxed.Of(f.box).Instances(t.Context(), "gauge", boxed.Selection{PageSize: 1}) {
			require.NoError(t, err)
			for _, instance := range page {
				seen++
				f.requireAsStored(seen, instance.Data)
			}
		}
		require.EqualValues(t, 2, seen)

		sent, err := f.box.Sync(t.Context(), "gauge", []json.RawMessage{json.RawMessage(`2`)}, outbox.SyncOptions{})
		require.NoError(t, err)
		require.Equal(t, 1, sent)
		f.requireAsStored(2, f.take()[0].Data)
	})
}

// Gadget, Rack, Bolt and Coat stand for the kinds of relations.
type Gadget struct {
	bun.BaseModel `bun:"table:gadgets"`
	outbox.Tracked

	ID     int64  `bun:",pk"`
	Note   string `bun:",nullzero"`
	RackID int64  `bun:",nullzero"`
	Rack   *Rack  `bun:"rel:belongs-to,join:rack_id=id"`
	Bolts  []Bolt `bun:"rel:has-many,join:id=gadget_id"`
	Coats  []Coat `bun:"m2m:gadgets_coats,join:Gadget=Coat"`
}

type Rack struct {
	bun.BaseModel `bun:"table:racks"`
	ID            int64  `bun:",pk"`
	Place         string `bun:",nullzero"`
	Height        int64
}

type Bolt struct {
	bun.BaseModel `bun:"table:bolts"`
	ID            int64 `bun:",pk"`
	GadgetID      int64
	Length        int64 `bun:",nullzero"`
	Steel         bool
	RackID        int64 `bun:",nullzero"`
	Rack          *Rack `bun:"rel:belongs-to,join:rack_id=id"`
}

type Coat struct {
	bun.BaseModel `bun:"table:coats"`
	ID            int64  `bun:",pk"`
	Color         string `bun:",nullzero"`
}

type GadgetCoat struct {
	bun.BaseModel `bun:"table:gadgets_coats"`
	GadgetID      int64   `bun:",pk"`
	Gadget        *Gadget `bun:"rel:belongs-to,join:gadget_id=id"`
	CoatID        int64   `bun:",pk"`
	Coat          *Coat   `bun:"rel:belongs-to,join:coat_id=id"`
}

func TestRowsOfRelationsTellZeroFromNull(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		db.RegisterModel((*GadgetCoat)(nil))
		for _, table := range []any{(*Gadget)(nil), (*Rack)(nil), (*Bolt)(nil), (*Coat)(nil), (*GadgetCoat)(nil)} {
			require.NoError(t, exec(db.NewCreateTable().Model(table).Exec(t.Context())))
		}
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		relations := outbox.Relations("Rack", "Bolts.Rack", "Coats")
		require.NoError(t, outbox.Register[Gadget](box, "gadget", relations))
		require.NoError(t, box.Migrate(t.Context()))
		f := fixture{t, db, box}
		for _, statement := range []string{
			"INSERT INTO racks VALUES (0, '', NULL), (1, NULL, 0)",
			"INSERT INTO coats VALUES (1, ''), (2, NULL)",
			"INSERT INTO gadgets_coats VALUES (7, 1), (7, 2)",
			"INSERT INTO bolts VALUES (1, 7, 0, NULL, 0), (2, 7, NULL, false, 1), (3, 7, 0, true, NULL)",
		} {
			require.NoError(t, exec(db.DB.ExecContext(t.Context(), statement)))
		}
		require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewInsert().Model(&Gadget{ID: 7}).Exec(ctx)); err != nil {
				return err
			}
			set := tx.NewUpdate().Model(&Gadget{ID: 7}).Set("note = ''").Set("rack_id = 0")
			return exec(set.WherePK().Exec(ctx))
		}))
		want := `{"id":7,"note":"","rack_id":0,"rack":{"id":0,"place":"","height":null},
			"coats":[{"id":1,"color":""},{"id":2,"color":null}],
			"bolts":[
				{"id":1,"gadget_id":7,"length":0,"steel":null,"rack_id":0,"rack":{"id":0,"place":"","height":null}},
				{"id":2,"gadget_id":7,"length":null,"steel":false,"rack_id":1,"rack":{"id":1,"place":null,"height":0}},
				{"id":3,"gadget_id":7,"length":0,"steel":true,"rack_id":null,"rack":null}]}`
		messages := f.take()
		require.Len(t, messages, 1)
		require.JSONEq(t, want, string(messages[0].Data))
		for page, err := range boxed.Of(f.box).Instances(t.Context(), "gadget", boxed.Selection{}) {
			require.NoError(t, err)
			require.Len(t, page, 1)
			require.JSONEq(t, want, string(page[0].Data))
		}
	})
}

// A primary key is never NULL: a row that has the key zero is one like any other.
func TestARowWithTheKeyZeroIsListed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newGauges(t, db)
		insert := "INSERT INTO gauges (id) VALUES (0)"
		if db.Dialect().Name() == dialect.MySQL {
			insert = "SET STATEMENT sql_mode = 'NO_AUTO_VALUE_ON_ZERO' FOR " + insert
		}
		require.NoError(t, exec(db.DB.ExecContext(t.Context(), insert)))
		for page, err := range boxed.Of(f.box).Instances(t.Context(), "gauge", boxed.Selection{}) {
			require.NoError(t, err)
			require.Len(t, page, 1)
			require.Equal(t, "0", page[0].Key)
			require.Equal(t, `0`, string(page[0].PK))
		}
	})
}

func TestArraysTellEmptyFromNull(t *testing.T) {
	type Tagged struct {
		bun.BaseModel `bun:"table:tagged"`
		ID            int64    `bun:",pk"`
		Tags          []string `bun:",array,nullzero"`
		Numbers       []int64  `bun:",array"`
		Flags         []bool   `bun:",array"`
	}
	f := newFixture(t, dbtestPostgres(t))
	require.NoError(t, exec(f.db.NewCreateTable().Model((*Tagged)(nil)).Exec(t.Context())))
	require.NoError(t, outbox.Register[Tagged](f.box, "tagged"))
	f.insert(&Tagged{ID: 1})
	require.JSONEq(t, `{"id":1,"tags":null,"numbers":null,"flags":null}`, string(f.take()[0].Data))
	require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		set := tx.NewUpdate().Model(&Tagged{ID: 1}).Set("tags = '{}'").Set("numbers = '{}'").Set("flags = '{}'")
		return exec(set.WherePK().Exec(ctx))
	}))
	require.JSONEq(t, `{"id":1,"tags":[],"numbers":[],"flags":[]}`, string(f.take()[0].Data))
}

func TestARelationWithoutPrimaryKeyIsRefused(t *testing.T) {
	type Leaf struct {
		BranchID int64
		Text     string
	}
	type Branch struct {
		ID     int64   `bun:",pk"`
		Leaves []*Leaf `bun:"rel:has-many,join:id=branch_id"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	err := outbox.Register[Branch](f.box, "branch", outbox.Relations("Leaves"))
	require.ErrorContains(t, err, `relation "Leaves": Leaf has no primary key`)
}
