package answers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Parcel has the fields that services have, on both sides.
type Parcel struct {
	bun.BaseModel `bun:"table:parcels"`
	outbox.Tracked

	ID     int64  `bun:",pk"`
	Tenant string `bun:",type:varchar(40)"`
	Name   *string
	Small  int8
	Whole  int64
	Flag   bool
	Maybe  *bool
	Ratio  float64
	Single float32
	Price  string `bun:"type:decimal(30,10)"`
	At     time.Time
	Until  *time.Time
	Day    time.Time `bun:"type:date"`
	Bytes  []byte
	Doc    map[string]any
	Raw    json.RawMessage
	List   []string
}

func parcels() []*Parcel {
	text := func(s string) *string { return &s }
	yes, at := true, time.Date(2026, 3, 29, 2, 30, 0, 123456000, time.UTC)
	return []*Parcel{
		{
			ID: math.MaxInt64, Tenant: " it's \\ \"ü\" 🎉 ", Name: text(""), Small: -128, Whole: math.MinInt64, Flag: true, Maybe: &yes,
			Ratio: 1e300, Single: 0.1, Price: "123.25", At: at, Until: &at,
			Day: time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC), Bytes: []byte{0xff, 0, 0x80}, Doc: map[string]any{"a": "<ü>", "n": 1.5},
			Raw: json.RawMessage(`{"b":[1,null]}`), List: []string{"a,b", `"`, ""},
		},
		{
			ID: -7, Tenant: "NULL", Ratio: -1e-300, Price: "-0.5", At: time.Date(1066, 10, 14, 9, 0, 0, 0, time.UTC),
			Day: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), Bytes: []byte{}, Raw: json.RawMessage(`[]`), List: []string{},
		},
		{
			ID: 3, Tenant: "x", Ratio: 0.1, Price: "0", At: at, Day: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), Raw: json.RawMessage(`"s"`),
			Doc: map[string]any{}, Bytes: []byte("b"),
		},
	}
}

func TestEveryFieldOfAStructHasItsAnswer(t *testing.T) {
	eachPair(t, func(t *testing.T, master, copies string) {
		p := databases(t, master, copies, nil, nil)
		for _, db := range []*bun.DB{p.master, p.copies} {
			query := db.NewCreateTable().Model((*Parcel)(nil))
			_, err := query.Exec(t.Context())
			require.NoError(t, err)
		}
		box, err := outbox.New(p.master, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Parcel](box, "parcel"))
		rep, err := replica.New(p.copies, replica.Config{Queue: "q", Logger: quiet})
		require.NoError(t, err)
		require.NoError(t, replica.Register[Parcel](rep, "parcel"))
		p.start(box, rep)
		if master == "mariadb" {
			p.exec(p.master, "ALTER TABLE parcels MODIFY single double, MODIFY ratio double") // bun writes 1e300 as a decimal
		}
		rows := parcels()
		for i := range reflect.TypeFor[Parcel]().NumField() {
			row := *rows[0]
			row.ID, row.Single = int64(100+i), 0.5
			rows = append(rows, &row)
		}
		if master == "mariadb" {
			rows[1].Ratio = 0.5
			for _, row := range rows {
				row.Ratio = min(row.Ratio, 1e20)
			}
		}
		require.NoError(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewInsert().Model(&rows).Exec(ctx)
			return err
		}))
		p.becomesEqual("parcel", func() { p.requireSame() })
		p.requireSame()

		// Each field is changed by hand in a row of its own.
		changed := int64(0)
		for i, field := range p.copies.Table(reflect.TypeFor[Parcel]()).DataFields {
			value := map[string]any{"bool": false, "string": "42", "int": 42, "other": nil}[kindOf(field.IndirectType)]
			if value == nil && field.NotNull {
				continue
			}
			_, err := p.copies.NewUpdate().Table("parcels").Set("? = ?", bun.Ident(field.Name), value).
				Where("id = ?", 100+i).Exec(t.Context())
			require.NoError(t, err, field.Name)
			changed++
		}
		require.Greater(t, changed, int64(12))
		require.Equal(t, changed, p.diff("parcel", true).Differing, "one change for each field")
		p.becomesEqual("parcel")
		p.requireSame()
	})
}

func kindOf(typ reflect.Type) string {
	switch {
	case typ.Kind() == reflect.Bool:
		return "bool"
	case typ.Kind() == reflect.String:
		return "string"
	case typ.Kind() >= reflect.Int && typ.Kind() <= reflect.Float64:
		return "int"
	default:
		return "other"
	}
}

// requireSame holds the rows that both databases give back against each other.
func (p *pipeline) requireSame() {
	p.Helper()
	var there, here []Parcel
	require.NoError(p, p.master.NewSelect().Model(&there).Order("id").Scan(p.Context()))
	require.NoError(p, p.copies.NewSelect().Model(&here).Order("id").Scan(p.Context()))
	for _, rows := range [][]Parcel{there, here} {
		for i := range rows {
			rows[i].At = rows[i].At.UTC()
			if rows[i].Until != nil {
				utc := rows[i].Until.UTC()
				rows[i].Until = &utc
			}
			rows[i].Day = rows[i].Day.UTC()
			rows[i].Tracked = outbox.Tracked{}
			if rows[i].Raw != nil { // jsonb has spaces of its own
				var compact bytes.Buffer
				require.NoError(p, json.Compact(&compact, rows[i].Raw))
				rows[i].Raw = compact.Bytes()
			}
			if strings.Contains(rows[i].Price, ".") { // as many zeros as the column has
				rows[i].Price = strings.TrimRight(strings.TrimRight(rows[i].Price, "0"), ".")
			}
		}
	}
	require.Equal(p, there, here)
}
