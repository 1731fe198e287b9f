package column_test

import (
	"database/sql"
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/column"
)

const text, digits, base64 = "5f0c6f5e-0000-4000-8000-0123456789ab", "5f0c6f5e000040008000" + "0123456789ab", "XwxvXgAAQACAAAEjRWeJqw=="

type columnUUID interface {
	sql.Scanner
	encoding.TextUnmarshaler
}

func TestEveryTypeReadsEverySpellingAndWritesItsOwn(t *testing.T) {
	bytes := uuid.MustParse(text)
	for _, c := range []struct {
		new   func() columnUUID
		value driver.Value
	}{
		{func() columnUUID { return new(column.HexUUID) }, digits},
		{func() columnUUID { return new(column.TextUUID) }, text},
		{func() columnUUID { return new(column.BinaryUUID) }, bytes[:]},
	} {
		for _, src := range []any{
			text, digits, "5F0C6F5E-0000-4000-8000-0123456789AB", digits + "    ", []byte(digits), []byte(text), bytes[:], [16]byte(bytes),
		} {
			u := c.new()
			require.NoError(t, u.Scan(src))
			value, err := u.(driver.Valuer).Value()
			require.NoError(t, err)
			require.Equal(t, c.value, value)
			out, err := json.Marshal(u)
			require.NoError(t, err)
			require.Equal(t, `"`+text+`"`, string(out))
			require.Equal(t, text, fmt.Sprint(u))
		}
		for _, spelled := range []string{text, digits, base64} {
			u := c.new()
			require.NoError(t, json.Unmarshal([]byte(`"`+spelled+`"`), u), spelled)
			require.Equal(t, text, fmt.Sprint(u))
			require.Contains(t, u.(interface{ Alike() []json.RawMessage }).Alike(), json.RawMessage(`"`+spelled+`"`))
		}
		for _, none := range []any{"", "x", digits[1:], []byte{}, 7} {
			require.ErrorContains(t, c.new().Scan(none), "want a uuid", "%v", none)
		}
		require.NoError(t, c.new().Scan(nil))
	}
}
