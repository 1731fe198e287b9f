package queue

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"
)

// What PostgreSQL sends is tested by the suite that every kind of database runs. This is for what it never should.
func TestValuesThatCannotBeReadAreErrors(t *testing.T) {
	var (
		text   string
		raw    []byte
		number int64
		some   sql.NullInt64
		yes    bool
		at     place
	)
	columns := []any{&text, &raw, &number, &some, &yes, &at}
	row := func(i int, value []byte) [][]byte {
		values := [][]byte{[]byte("text"), []byte("{}"), {0, 7}, {0xff, 0xff, 0xff, 0xfe}, {1}, {0, 0, 1, 0, 0, 3}}
		values[i] = value
		return values
	}
	require.NoError(t, decodeBinary(row(0, []byte("other")), columns))
	require.Equal(t, []any{"other", "{}", int64(7), sql.NullInt64{Int64: -2, Valid: true}, true, place("(256,3)")},
		[]any{text, string(raw), number, some, yes, at})
	require.NoError(t, decodeBinary(row(3, nil), columns))
	require.Equal(t, sql.NullInt64{}, some)

	for column, values := range map[int][][]byte{
		0: {nil}, 2: {nil, {}, {1}, make([]byte, 16)}, 3: {{}, {1, 2, 3}}, 4: {nil, {}, {0, 1}}, 5: {nil, {1, 2, 3}, make([]byte, 7)},
	} {
		for _, value := range values {
			require.ErrorContains(t, decodeBinary(row(column, value), columns), "column ", "%v as column %d", value, column)
		}
	}
	require.ErrorContains(t, decodeBinary(nil, columns), "0 columns, want 6")
	require.ErrorContains(t, decodeBinary([][]byte{{1}}, []any{new(float64)}), "*float64")
}

// The caller's buffer is used again for the next row.
func TestValuesAreCopied(t *testing.T) {
	var raw []byte
	var text string
	value := []byte("abc")
	require.NoError(t, decodeBinary([][]byte{value, value}, []any{&raw, &text}))
	copy(value, "xyz")
	require.Equal(t, "abc", string(raw))
	require.Equal(t, "abc", text)
}
