package envelope

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEveryMessageSurvivesBeingSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { requireRoundTrip(t, anyMessage(t)) })
}

func TestEveryTimeSurvivesBeingWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyTime().Draw(t, "time")
		got, err := ParseTime(FormatTime(want))
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestDifferentKeysHaveDifferentTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.StringMatching(`[a",\\\[\]é]{0,3}`), 2, 2)
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		keyA, err := KeyOf(marshal(t, a))
		require.NoError(t, err)
		keyB, err := KeyOf(marshal(t, b))
		require.NoError(t, err)
		require.Equal(t, a[0] == b[0] && a[1] == b[1], keyA == keyB)
	})
}

func anyMessage(t *rapid.T) *Message {
	text := rapid.StringN(1, 20, -1)
	m := &Message{
		Signal:        rapid.SampledFrom([]Signal{Save, Delete, Sync}).Draw(t, "signal"),
		Model:         rapid.StringMatching(`[A-Za-z0-9_-]{1,200}`).Draw(t, "model"),
		PK:            anyPK(t),
		Revision:      rapid.Int64().Draw(t, "revision"),
		Updated:       rapid.OneOf(rapid.Just(time.Time{}), anyTime()).Draw(t, "updated"),
		CorrelationID: rapid.String().Draw(t, "correlation"),
		Retries:       int(rapid.Int32Min(0).Draw(t, "retries")),
		Expires:       rapid.OneOf(rapid.Just(time.Time{}), anyTime()).Draw(t, "expires"),
		After:         rapid.Ptr(rapid.Int64(), true).Draw(t, "after"),
		Queue:         rapid.String().Draw(t, "queue"),
		Force:         rapid.Bool().Draw(t, "force"),
		Incarnation:   rapid.StringMatching(`[a-z0-9-]{0,20}`).Draw(t, "incarnation"),
	}
	if !m.Force {
		m.ForceUntil = rapid.OneOf(rapid.Just(time.Time{}), anyTime()).Draw(t, "force until")
	}
	fields := rapid.MapOfN(text, anyValue(2), 0, 6).Draw(t, "data")
	delete(fields, dataRevision)
	delete(fields, dataUpdated)
	m.NonFinite = someNonFinite(t, fields)
	m.Data = Stamp(marshal(t, fields), m.Revision, m.Updated)
	if rapid.Bool().Draw(t, "has previous") {
		previous := rapid.MapOfN(text, anyValue(1), 0, 3).Draw(t, "previous")
		m.PreviousNonFinite = someNonFinite(t, previous)
		m.Previous = marshal(t, previous)
	}
	if meta := rapid.MapOfN(text, anyValue(1), 0, 3).Draw(t, "meta"); len(meta) > 0 {
		m.Meta = marshal(t, meta)
	}
	if headers := rapid.MapOfN(rapid.StringMatching(`[a-z-]{1,9}`), rapid.String(), 0, 3).Draw(t, "headers"); len(headers) > 0 {
		m.Headers = headers
	}
	m.Key = rapid.StringN(1, 20, -1).Draw(t, "key")
	if string(m.PK) != "null" && rapid.Bool().Draw(t, "derived key") {
		var err error
		m.Key, err = KeyOf(m.PK)
		require.NoError(t, err)
	}
	return m
}

// someNonFinite puts values that JSON cannot say into a third of the fields that are null, and into lists.
func someNonFinite(t *rapid.T, fields map[string]any) NonFinite {
	var odd NonFinite
	for name, value := range fields {
		if value != nil || !rapid.Bool().Draw(t, "non-finite") {
			continue
		}
		if odd == nil {
			odd = NonFinite{}
		}
		token := rapid.SampledFrom([]string{"NaN", "Infinity", "-Infinity"}).Draw(t, "value")
		odd[name] = json.RawMessage(token)
		if rapid.Bool().Draw(t, "in a list") {
			odd[name] = json.RawMessage(`[1.5,` + token + `,"NaN"]`)
			fields[name] = []any{1.5, nil, "NaN"}
		}
	}
	return odd
}

func anyPK(t *rapid.T) json.RawMessage {
	scalar := rapid.OneOf(
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.StringMatching(`[^\x00]{1,9}`), func(s string) any { return s }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
	)
	return marshal(t, rapid.OneOf(
		scalar, rapid.Just[any](nil),
		rapid.Map(rapid.SliceOfN(scalar, 1, 3), func(parts []any) any { return parts }),
	).Draw(t, "pk"))
}

func anyTime() *rapid.Generator[time.Time] {
	first := time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC).UnixMicro()
	last := time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC).UnixMicro()
	return rapid.Map(rapid.Int64Range(first, last), func(micros int64) time.Time {
		t := time.UnixMicro(micros).UTC()
		if micros%3 == 0 {
			t = t.Truncate(time.Second)
		}
		return t
	}).Filter(func(t time.Time) bool { return !t.IsZero() })
}

func anyValue(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.Just[any](nil),
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64(), func(f float64) any { return f }),
		rapid.SampledFrom([]any{"NaN", "Infinity", `"`, `\`, "</script>\u2028", true, json.Number("1.10")}),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	return rapid.OneOf(append(scalars,
		rapid.Map(rapid.SliceOfN(anyValue(depth-1), 0, 3), func(s []any) any { return s }),
		rapid.Map(rapid.MapOfN(rapid.String(), anyValue(depth-1), 0, 3), func(m map[string]any) any { return m }),
	)...)
}

func marshal(t require.TestingT, v any) json.RawMessage {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return raw
}
