package operate_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Meter takes NULL for zero on the master, and MeterCopy has plain fields: neither Go value tells
// them apart.
type Meter struct {
	bun.BaseModel `bun:"table:meters"`

	ID    int64  `bun:",pk,nullzero"`
	Unit  string `bun:",nullzero"`
	Count int64  `bun:",nullzero"`
	On    bool   `bun:",nullzero"`
	Text  string
}

type MeterCopy struct {
	bun.BaseModel `bun:"table:meter_copies"`

	ID    int64 `bun:",pk,nullzero"`
	Unit  string
	Count int64
	On    bool
	Text  string `bun:",nullzero"`
}

// A diff with content takes equal columns for equal, and sees a NULL in the place of a zero.
func TestADiffTellsZeroFromNull(t *testing.T) {
	each(t, func(s *service) {
		s.exec(s.master, "CREATE TABLE meters (id bigint PRIMARY KEY, unit text, count bigint, "+quoted(s.master, "on")+" boolean, text text)")
		s.exec(s.copies, "CREATE TABLE meter_copies (id bigint PRIMARY KEY, unit text, count bigint, "+quoted(s.copies, "on")+" boolean, text text)")
		require.NoError(s, outbox.Register[Meter](s.box, "meter"))
		require.NoError(s, replica.Register[MeterCopy](s.rep, "meter"))
		s.insert(&[]Meter{{ID: 1}, {ID: 2}})
		s.write(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewUpdate().Model(&Meter{ID: 2}).Set("unit = ''").Set("count = 0").Set("? = ?", bun.Ident("on"), false).
				Set("text = NULL").WherePK().Exec(ctx)
			return err
		})
		s.carry()
		differing := func(n int64) string {
			var keys bytes.Buffer
			result, err := operate.Diff(s.Context(), s.box, s.rep, "meter", &keys, operate.DiffOptions{Content: true, CheckOnly: true})
			require.NoError(s, err)
			require.Equal(s, n, result.Differing)
			return keys.String()
		}
		differing(0)

		s.exec(s.copies, "UPDATE meter_copies SET count = 0 WHERE id = 1")
		require.Contains(s, differing(1), "[1]")
		s.exec(s.copies, "UPDATE meter_copies SET unit = NULL WHERE id = 2")
		require.Contains(s, differing(2), "[1,2]")

		_, err := operate.Diff(s.Context(), s.box, s.rep, "meter", io.Discard, operate.DiffOptions{Content: true})
		require.NoError(s, err)
		s.carry()
		differing(0) // the repair sends what the master holds
	})
}

func quoted(db *bun.DB, name string) string {
	quote := string(db.Dialect().IdentQuote())
	return quote + name + quote
}
