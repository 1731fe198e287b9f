package outbox

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/schema"
)

type measured struct {
	bun.BaseModel `bun:"table:orders"`

	ID        int64 `bun:",pk"`
	Number    string
	Status    string
	Note      string
	Amount    float64
	Paid      bool
	CreatedAt time.Time
}

// BenchmarkJudge compares the judge with what it costs to format the statement that it reads.
func BenchmarkJudge(b *testing.B) {
	rows := make([]measured, 1000)
	for i := range rows {
		rows[i] = measured{ID: int64(i), Number: fmt.Sprint("2026-", i), Status: "new", CreatedAt: time.Now(),
			Note: strings.Repeat(`it's a "note" `, 5), Amount: 1.5}
	}
	for name, d := range map[string]schema.Dialect{"pg": pgdialect.New(), "sqlite": sqlitedialect.New()} {
		db := bun.NewDB(nil, d)
		query, err := db.NewInsert().Model(&rows).AppendQuery(db.QueryGen(), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/format", func(b *testing.B) {
			for b.Loop() {
				_, _ = db.NewInsert().Model(&rows).AppendQuery(db.QueryGen(), make([]byte, 0, len(query)))
			}
		})
		text := string(query)
		b.Run(name+"/judge", func(b *testing.B) {
			for b.Loop() {
				judge(text, d.Name())
			}
		})
	}
}
