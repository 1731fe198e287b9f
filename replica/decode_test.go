package replica

import (
	"database/sql"
	"encoding/json"
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
)

// embeddedTime reads RFC 3339 only, by the methods it inherits.
type embeddedTime struct{ time.Time }

// level is a type that was written to read a database column.
type level struct{ n int64 }

func (l *level) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return sql.ErrNoRows
	}
	l.n = n
	return nil
}

type document map[string]int

func (d *document) Scan(src any) error { return json.Unmarshal(src.([]byte), (*map[string]int)(d)) }

func TestDecodeByGoType(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	id := uuid.MustParse("0419d87b-d477-44e4-82c4-310f56faa3c7")
	seven := int64(7)
	type named string
	for _, test := range []struct {
		raw  string
		want any
	}{
		{`true`, true},
		{`-9223372036854775808`, int64(-1 << 63)},
		{`"42"`, int32(42)},
		{`18446744073709551615`, uint64(1<<64 - 1)},
		{`1e22`, 1e22},
		{`"0.1"`, float32(0.1)},
		{`"a\u00fc\ud83d\ude00\/"`, "aü😀/"},
		{`9.90`, "9.90"},
		{`"x"`, named("x")},
		{`"2026-01-02 03:04:05+00:00"`, at},
		{`"2026-01-02T03:04:05Z"`, at},
		{`"2026-01-02 03:04:05+00:00"`, embeddedTime{at}},
		{`"2026-01-02 03:04:05+00:00"`, sql.NullTime{Time: at, Valid: true}},
		{`"2026-01-02 03:04:05+00:00"`, sql.Null[time.Time]{V: at, Valid: true}},
		{`"2026-01-02 03:04:05+00:00"`, bun.NullTime{Time: at}},
		{`"2026-01-02"`, sql.NullString{String: "2026-01-02", Valid: true}},
		{`1.50`, sql.NullString{String: "1.50", Valid: true}},
		{`1.5`, sql.NullFloat64{Float64: 1.5, Valid: true}},
		{`false`, sql.NullBool{Valid: true}},
		{`null`, sql.NullInt64{}},
		{`7`, level{7}},
		{`{"a":1}`, document{"a": 1}},
		{`"AP8="`, []byte{0, 255}},
		{`""`, []byte{}},
		{`"0419d87b-d477-44e4-82c4-310f56faa3c7"`, id},
		{`"10.0.0.1"`, netip.MustParseAddr("10.0.0.1")},
		{`"12345678901234567890"`, *new(big.Int).SetUint64(12345678901234567890)},
		{`12345678901234567890`, *new(big.Int).SetUint64(12345678901234567890)},
		{`{"a":[1]}`, json.RawMessage(`{"a":[1]}`)},
		{`null`, json.RawMessage(nil)},
		{`7`, &seven},
		{`null`, (*int64)(nil)},
		{`null`, ""},
		{`["a",null]`, []string{"a", ""}},
		{`{"a":1}`, map[named]int{"a": 1}},
		{`[1,2]`, [2]int{1, 2}},
	} {
		dst := reflect.New(reflect.TypeOf(test.want)).Elem()
		require.NoError(t, shapes{}.decode(dst, json.RawMessage(test.raw)), "%s as %T", test.raw, test.want)
		require.Equal(t, test.want, dst.Interface(), "%s as %T", test.raw, test.want)
	}
	var anything any
	require.NoError(t, shapes{}.decode(reflect.ValueOf(&anything).Elem(), json.RawMessage(`[9007199254740993]`)))
	require.Equal(t, []any{json.Number("9007199254740993")}, anything)
}

func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct {
		raw  string
		dst  any
		want string
	}{
		{`256`, uint8(0), "value out of range"},
		{`-1`, uint8(0), "invalid syntax"},
		{`1e400`, float64(0), "value out of range"},
		{`1`, false, "a number cannot be read as bool"},
		{`true`, "", "a boolean cannot be read as string"},
		{`"a\u0000b"`, "", "NUL"},
		{`"a\u0000b"`, sql.NullString{}, "NUL"},
		{`5`, time.Time{}, "a number cannot be read as time.Time"},
		{`"soon"`, sql.NullTime{}, "unsupported Scan"},
		{`"%"`, []byte(nil), "base64"},
		{`[1]`, []byte(nil), "base64"},
		{`"x"`, []string(nil), "a string cannot be read as []string"},
		{`["x"]`, []int(nil), "0: int does not hold"},
		{`[]`, struct{}{}, "a list cannot be read as struct"},
		{`{"a":1}`, map[int]string(nil), "string keys"},
		{`{}`, uuid.UUID{}, "an object cannot be read as uuid.UUID"},
		{`"x"`, func() {}, "a string cannot be read as func()"},
	} {
		err := shapes{}.decode(reflect.New(reflect.TypeOf(test.dst)).Elem(), json.RawMessage(test.raw))
		require.ErrorContains(t, err, test.want, "%s as %T", test.raw, test.dst)
	}
}

func TestRetryClassByErrorCode(t *testing.T) {
	for state, want := range map[string]retryClass{
		"22001": none, "22P02": none, "23502": none, "23514": none,
		"23503": limited, "23505": limited, "23P01": limited, "25P02": limited, "57014": limited,
		"42P01": endless, "42501": endless,
		"40001": outage, "40P01": outage, "57P01": outage, "08006": outage, "25006": outage, "53100": outage,
	} {
		require.Equal(t, want, classOfState(state), state)
	}
	require.Equal(t, outage, classOf(sql.ErrConnDone))
	require.Equal(t, limited, classOfHandlers(sql.ErrNoRows))
	require.Equal(t, none, classOf(Permanent(sql.ErrConnDone)))
}
