package operate_test

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"pgregory.net/rapid"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
)

// Thing has a column of each kind that filters compare.
type Thing struct {
	bun.BaseModel `bun:"table:things"`

	ID      int64 `bun:",pk"`
	Name    string
	Note    *string
	Paid    bool
	Weight  float64
	Created time.Time
}

func things(t testing.TB, db *bun.DB) {
	_, err := db.NewCreateTable().Model((*Thing)(nil)).Exec(t.Context())
	require.NoError(t, err)
	note := "100% of_it\\"
	day := func(n int) time.Time { return time.Date(2026, 11, n, 12, 0, 0, 0, time.UTC) }
	rows := []Thing{
		{ID: 1, Name: "Ada", Paid: true, Weight: 1.5, Created: day(1)},
		{ID: 2, Name: "ada", Note: &note, Weight: 2, Created: day(2)},
		{ID: 3, Name: "Bob'; DROP TABLE things; --", Weight: -1, Created: day(3)},
	}
	_, err = db.NewInsert().Model(&rows).Exec(t.Context())
	require.NoError(t, err)
}

// found are the ids that a filter selects.
func found(t require.TestingT, db *bun.DB, text string) ([]int64, error) {
	filter, err := operate.ParseFilter(text)
	if err != nil {
		return nil, err
	}
	where, err := filter.On(db.Table(reflect.TypeFor[Thing]()))
	if err != nil {
		return nil, err
	}
	ids := []int64{}
	query := db.NewSelect().Model((*Thing)(nil)).Column("id").Order("id")
	if where != nil {
		query = where(query)
	}
	require.NoError(t, query.Scan(context.Background(), &ids), text)
	return ids, nil
}

func TestFilters(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		things(t, db)
		for text, want := range map[string][]int64{
			`{}`:                             {1, 2, 3},
			`{"id": 2}`:                      {2},
			`{"pk": "2"}`:                    {2},
			`{"id__exact": 2}`:               {2},
			`{"id__in": [1, 3, 9]}`:          {1, 3},
			`{"pk__in": []}`:                 {},
			`{"id__ne": 2}`:                  {1, 3},
			`{"id__gt": 1, "id__lt": 3}`:     {2},
			`{"id__gte": 2}`:                 {2, 3},
			`{"id__lte": 2}`:                 {1, 2},
			`{"id__range": [2, 3]}`:          {2, 3},
			`{"note": null}`:                 {1, 3},
			`{"note__ne": null}`:             {2},
			`{"note__isnull": false}`:        {2},
			`{"note__isnull": true}`:         {1, 3},
			`{"name__contains": "da"}`:       {1, 2},
			`{"name__contains": "DA"}`:       {},
			`{"name__startswith": "A"}`:      {1},
			`{"note__contains": "% of_"}`:    {2},
			`{"note__contains": "0_"}`:       {},
			`{"note__contains": "it\\"}`:     {2},
			`{"paid": true}`:                 {1},
			`{"weight__lt": 0}`:              {3},
			`{"created__gte": "2026-11-02"}`: {2, 3},
			`{"created__range": ["2026-11-01 12:00:00+00:00", "2026-11-01T13:00:00+01:00"]}`: {1},
			`{"name": "Bob'; DROP TABLE things; --"}`:                                        {3},
			`{"name": "x' OR '1'='1"}`:                                                       {},
			`{"name__in": ["') OR 1=1 --", "?", "?0", "?TableAlias"]}`:                       {},
			`{"name__contains": "\\' OR 1=1 --"}`:                                            {},
		} {
			ids, err := found(t, db, text)
			require.NoError(t, err, text)
			require.Equal(t, want, ids, text)
		}
		for text, want := range map[string]string{
			``:                                "want a JSON object",
			`null`:                            "want a JSON object",
			`[1]`:                             "want a JSON object",
			`{"id": }`:                        "not JSON",
			`{"id": 1} {}`:                    "after the JSON object",
			`{"id__regex": "x"}`:              `unknown look-up "regex"`,
			`{"id; DROP TABLE x": 1}`:         "no such column",
			`{"id\" = 1 OR \"id": 1}`:         "no such column",
			`{"things.id": 1}`:                "no such column",
			`{"id": "1 OR 1=1"}`:              "no value for column id",
			`{"id": {"a": 1}}`:                "want a string, a number or a boolean",
			`{"id__in": 1}`:                   "want a list",
			`{"id__range": [1]}`:              "want a list of two",
			`{"note__isnull": 1}`:             "want true or false",
			`{"id__contains": "1"}`:           "holds no text",
			`{"name__contains": 1}`:           "want a string",
			`{"name": "a\u0000b"}`:            "NUL",
			`{"created": "yesterday"}`:        "no value for column created",
			`{"nope": 1, "neither__in": [1]}`: "\n",
		} {
			_, err := found(t, db, text)
			require.ErrorContains(t, err, want, text)
		}
	})
}

// TestAnyTextFindsItselfAndNothingElse looks for texts that would mean something to SQL.
func TestAnyTextFindsItselfAndNothingElse(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		things(t, db)
		rapid.Check(t, func(rt *rapid.T) {
			text := rapid.StringOf(rapid.RuneFrom([]rune("aB0 '\"\\%_?;-`$1#\n(){}éλ"))).Draw(rt, "text")
			_, err := db.NewUpdate().Model((*Thing)(nil)).Set("name = ?", text).Where("id = 2").Exec(t.Context())
			require.NoError(rt, err)
			for lookup, value := range map[string]any{"exact": text, "in": []string{text}, "contains": text, "startswith": text} {
				filter, err := json.Marshal(map[string]any{"name__" + lookup: value, "id__in": []int{1, 2}})
				require.NoError(rt, err)
				ids, err := found(rt, db, string(filter))
				require.NoError(rt, err)
				if lookup == "exact" || lookup == "in" || len(text) > 3 {
					require.Equal(rt, []int64{2}, ids, string(filter))
				} else {
					require.True(rt, slices.Contains(ids, 2), string(filter))
				}
			}
		})
	})
}

func FuzzParseFilter(f *testing.F) {
	db := dbtest.Open(f, dbtest.SQLiteURL(f))
	things(f, db)
	for _, seed := range []string{`{}`, `{"id__in":[1,2],"name":"x"}`, `{"pk":1e400}`, `{"created__gte":"2026"}`, `{"a__b__c":[]}`, `{"note":null}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids, err := found(t, db, text)
		if err == nil && !strings.HasPrefix(strings.TrimSpace(text), "{") {
			t.Errorf("%q found %v", text, ids)
		}
	})
}
