package envelope

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const minimal = `{"signal_type":"SAVE","cqrs_id":"order","instance_data":{"id":7,"cqrs_revision":3},"instance_pk":7}`

// with returns the minimal body with the value of one key replaced, or with the key added.
func with(key, value string) string {
	return strings.TrimSuffix(minimal, "}") + `,"` + key + `":` + value + "}"
}

func TestOldMastersMayLeaveOutOrNullWhatIsNotRequired(t *testing.T) {
	want := &Message{
		Signal: Save, Model: "order", PK: json.RawMessage("7"), Key: "7", Revision: 3,
		Data: json.RawMessage(`{"id":7,"cqrs_revision":3}`),
	}
	for name, body := range map[string]string{
		"missing":       minimal,
		"null previous": with("previous_data", "null"),
		"null meta":     with("meta", "null"),
		"empty meta":    with("meta", "{ }"),
		"null retries":  with("retries", "null"),
		"null expires":  with("expires", "null"),
		"null corr.":    with("correlation_id", "null"),
		"unknown key":   with("tenth", `{"a":[1,2,{}]}`),
		"another case":  with("CQRS_ID", `"other"`),
		"twice":         strings.Replace(minimal, "{", `{"cqrs_id":5,"instance_data":{"f":NaN},`, 1),
		"spread out":    strings.NewReplacer(":", " :\n\t", ",", "\r\n, ").Replace(" " + minimal + "\n"),
		"escaped names": strings.Replace(strings.Replace(minimal, "cqrs_id", `cqrs\u005fid`, 1), "cqrs_r", `\u0063qrs_r`, 1),
		"another order": `{"instance_pk":7,"instance_data":{"id":7,"cqrs_revision":3},"cqrs_id":"order","signal_type":"SAVE"}`,
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Decode([]byte(body), nil)
			require.NoError(t, err)
			if name == "escaped names" {
				require.JSONEq(t, string(want.Data), string(m.Data))
				m.Data = want.Data
			}
			require.Equal(t, want, m)
		})
	}
}

func TestUnreadableMessagesNameTheKeyAndTheReason(t *testing.T) {
	without := func(key string) string { return strings.Replace(minimal, `"`+key+`"`, `"other"`, 1) }
	data := func(data string) string { return with("instance_data", data) }
	tests := map[string]struct{ body, key, reason string }{
		"empty":            {"", "body", "empty"},
		"blank":            {" \n", "body", "not JSON: byte 2: it ends where a value should be"},
		"text":             {"hello", "body", "not JSON: byte 0: 'h' where a value should be"},
		"byte order mark":  {"\ufeff" + minimal, "body", `'\ufeff' where a value should be`},
		"not UTF-8":        {with("x", "\"\xff\""), "body", "not UTF-8"},
		"cut off":          {minimal[:40], "body", "it ends where"},
		"garbage behind":   {minimal + "}", "body", "'}' where the end should be"},
		"two objects":      {minimal + minimal, "body", "where the end should be"},
		"bad escape":       {with("x", `"\x"`), "body", `'\\' where a JSON escape should be`},
		"control char":     {with("x", "\"\n\""), "body", `'\n' where an escape for a control character should be`},
		"bad number":       {with("x", "01"), "body", "'1' where ',' or '}' should be"},
		"a name that NaN":  {"{NaN:1}", "body", `'N' where '"' should be`},
		"too deep":         {with("x", strings.Repeat("[", 1_000_000)), "body", "nested deeper than 10000"},
		"null":             {"null", "body", "want an object, got null"},
		"array":            {"[1]", "body", "want an object, got an array"},
		"NaN":              {"NaN", "body", "want an object, got NaN"},
		"no signal":        {without("signal_type"), "signal_type", "missing"},
		"signal number":    {with("signal_type", "1"), "signal_type", "want a string, got a number"},
		"unknown signal":   {with("signal_type", `"save"`), "signal_type", `"save" is none of SAVE, DELETE and SYNC`},
		"no model":         {without("cqrs_id"), "cqrs_id", "missing"},
		"null model":       {with("cqrs_id", "null"), "cqrs_id", "want a string, got null"},
		"model with dot":   {with("cqrs_id", `"a.b"`), "cqrs_id", `"a.b": use letters, digits, _ and -`},
		"no data":          {without("instance_data"), "instance_data", "missing"},
		"null data":        {data("null"), "instance_data", "want an object, got null"},
		"data list":        {data("[]"), "instance_data", "want an object, got an array"},
		"no revision":      {data("{}"), "instance_data.cqrs_revision", "missing"},
		"null revision":    {data(`{"cqrs_revision":null}`), "instance_data.cqrs_revision", "want an integer, got null"},
		"NaN revision":     {data(`{"cqrs_revision":NaN}`), "instance_data.cqrs_revision", "want an integer, got null"},
		"text revision":    {data(`{"cqrs_revision":"3"}`), "instance_data.cqrs_revision", "want an integer, got a string"},
		"half a revision":  {data(`{"cqrs_revision":3.5}`), "instance_data.cqrs_revision", "want an integer, got 3.5"},
		"huge revision":    {data(`{"cqrs_revision":1e999999999}`), "instance_data.cqrs_revision", "does not fit in 64 bits"},
		"bad updated":      {data(`{"cqrs_revision":3,"cqrs_updated":"soon"}`), "instance_data.cqrs_updated", `"soon" is not a time`},
		"number updated":   {data(`{"cqrs_revision":3,"cqrs_updated":3}`), "instance_data.cqrs_updated", "want a time, got a number"},
		"no key":           {without("instance_pk"), "instance_pk", "missing"},
		"object key":       {with("instance_pk", "{}"), "instance_pk", "got an object"},
		"empty key":        {with("instance_pk", `""`), "instance_pk", "got an empty string"},
		"null in key":      {with("instance_pk", "[1,NaN]"), "instance_pk", "composite key: want a string, a number or a boolean, got NaN"},
		"previous list":    {with("previous_data", "[]"), "previous_data", "want an object, got an array"},
		"retries text":     {with("retries", `"1"`), "retries", "want an integer, got a string"},
		"boolean retries":  {with("retries", "true"), "retries", "want an integer, got a boolean"},
		"negative retries": {with("retries", "-1"), "retries", "want a count, got -1"},
		"huge retries":     {with("retries", "4294967296"), "retries", "want a count"},
		"bad expires":      {with("expires", `"never"`), "expires", "is not a time"},
		"number expires":   {with("expires", "1"), "expires", "want a time, got a number"},
		"meta text":        {with("meta", `"x"`), "meta", "want an object, got a string"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := Decode([]byte(test.body), nil)
			require.Nil(t, m)
			requireDecodeError(t, err, test.key, test.reason)
		})
	}
}

func requireDecodeError(t *testing.T, err error, key, reason string) {
	t.Helper()
	var decodeError *DecodeError
	require.ErrorAs(t, err, &decodeError)
	require.Equal(t, key, decodeError.Key)
	require.ErrorContains(t, errors.Unwrap(err), reason)
	require.ErrorContains(t, err, "unreadable message: "+key+": ")
}

func TestNumbersAreReadWithoutLoss(t *testing.T) {
	tests := map[string]int64{
		"0": 0, "-0": 0, "0.0": 0, "-0.00": 0, "0e5": 0, "0e99999999999999999999": 0, "3.0": 3, "3.000e0": 3, "30e-1": 3,
		"0.5e1": 5, "12e2": 1200, "-1.20e+1": -12, "9007199254740993": 9007199254740993, "9007199254740993.0": 9007199254740993,
		"9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64, "-9.223372036854775808e18": math.MinInt64,
	}
	for literal, want := range tests {
		n, err := parseInt(literal)
		require.NoError(t, err, literal)
		require.Equal(t, want, n, literal)
	}
	for _, literal := range []string{
		"3.5", "1e-1", "0.1e0", "9223372036854775808", "9.3e18", "1e19", "1e999999999", "1e99999999999999999999",
		"1e-99999999999999999999", "9007199254740993.5",
	} {
		_, err := parseInt(literal)
		require.Error(t, err, literal)
		require.ErrorContains(t, err, literal)
	}
	m, err := Decode([]byte(with("instance_data", `{"cqrs_revision":3.0,"n":1.10}`)), nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, m.Revision)
	require.Equal(t, `{"cqrs_revision":3.0,"n":1.10}`, string(m.Data))
	requireRoundTrip(t, m)
}

func TestPythonsNonFiniteTokensAreNullAndKeptForFields(t *testing.T) {
	body := strings.NewReplacer("TOP", `{"n":NaN, "i": Infinity ,"j":-Infinity,"\u006b":NaN,"s":"NaN \" -Infinity",
		"deep":[NaN,{"x":-Infinity},-1],"twice":NaN,"twice":1,"cqrs_updated":NaN,"cqrs_revision":3}`).Replace(
		`{"signal_type":"SAVE","cqrs_id":"order","instance_data":TOP,"previous_data":{"n":Infinity},"instance_pk":NaN,` +
			`"correlation_id":NaN,"retries":NaN,"expires":-Infinity,"meta":{"a":[NaN]},"more":NaN}`)
	m, err := Decode([]byte(body), map[string]string{"cqrs_key": "7"})
	require.NoError(t, err)
	require.Equal(t, `{"n":null,"i":null,"j":null,"\u006b":null,"s":"NaN \" -Infinity",`+
		`"deep":[null,{"x":null},-1],"twice":null,"twice":1,"cqrs_updated":null,"cqrs_revision":3}`, string(m.Data))
	require.Equal(t, NonFinite{
		"n": json.RawMessage("NaN"), "i": json.RawMessage("Infinity"), "j": json.RawMessage("-Infinity"),
		"k": json.RawMessage("NaN"), "deep": json.RawMessage(`[NaN,{"x":-Infinity},-1]`), "cqrs_updated": json.RawMessage("NaN"),
	}, m.NonFinite)
	require.Equal(t, `{"n":null}`, string(m.Previous))
	require.Equal(t, NonFinite{"n": json.RawMessage("Infinity")}, m.PreviousNonFinite)
	require.Equal(t, `{"a":[null]}`, string(m.Meta))
	require.Equal(t, "null", string(m.PK))
	require.Equal(t, "7", m.Key)
	require.Empty(t, m.CorrelationID)
	require.Zero(t, m.Retries)
	require.True(t, m.Expires.IsZero() && m.Updated.IsZero())
	requireRoundTrip(t, m)

	encoded, err := m.Encode()
	require.NoError(t, err)
	require.Contains(t, string(encoded), `{"n":NaN,"i":Infinity,"j":-Infinity,"\u006b":NaN,"s":"NaN \" -Infinity",`+
		`"deep":[NaN,{"x":-Infinity},-1],"twice":null,"twice":1,"cqrs_updated":NaN,"cqrs_revision":3},"previous_data":{"n":Infinity},`)
}

func TestEscapesAreUnderstoodWhereTextIsRead(t *testing.T) {
	m, err := Decode([]byte(strings.Replace(with("correlation_id", `"a\/b \ud83d\ude00 \"é\""`),
		`"instance_pk":7`, `"instance_pk":"\u0416\/1"`, 1)), nil)
	require.NoError(t, err)
	require.Equal(t, `a/b 😀 "é"`, m.CorrelationID)
	require.Equal(t, "Ж/1", m.Key)
	require.Equal(t, `"\u0416\/1"`, string(m.PK))
	requireRoundTrip(t, m)
}

func TestACorrelationIDThatIsNoStringIsItsText(t *testing.T) {
	m, err := Decode([]byte(with("correlation_id", "[4, 2]")), nil)
	require.NoError(t, err)
	require.Equal(t, "[4,2]", m.CorrelationID)
	requireRoundTrip(t, m)
}

func TestCompositeAndOtherKeysAreRead(t *testing.T) {
	for pk, key := range map[string]string{`[1, "a"]`: `[1,"a"]`, `true`: "true", `1.50`: "1.50", `"7"`: "7"} {
		m, err := Decode([]byte(with("instance_pk", pk)), nil)
		require.NoError(t, err)
		require.Equal(t, key, m.Key)
		requireRoundTrip(t, m)
	}
}

func TestTheMetadataFillsWhatTheBodyCannotCarry(t *testing.T) {
	m, err := Decode([]byte(minimal), map[string]string{
		"cqrs_key": "seven", "cqrs_revision": "99", "cqrs_after": "-2", "cqrs_queue": "webhooks", "cqrs_force": "1",
		"correlation_id": "ignored", "traceparent": "00-1-2-01",
	})
	require.NoError(t, err)
	require.Equal(t, "seven", m.Key)
	require.EqualValues(t, 3, m.Revision, "the body's, which is what was written with the row")
	require.EqualValues(t, -2, *m.After)
	require.Equal(t, "webhooks", m.Queue)
	require.True(t, m.Force)
	require.Empty(t, m.CorrelationID)
	require.Equal(t, map[string]string{"traceparent": "00-1-2-01"}, m.Headers)
	requireRoundTrip(t, m)
}

func TestForceIsABooleanOrATime(t *testing.T) {
	until := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	for value, want := range map[string]Message{
		"true": {Force: true}, "0": {}, "2026-11-22 22:16:33.237828+00:00": {ForceUntil: until},
	} {
		m, err := Decode([]byte(minimal), map[string]string{"cqrs_force": value, "cqrs_incarnation": "a-b"})
		require.NoError(t, err)
		require.Equal(t, want.Force, m.Force, value)
		require.Equal(t, want.ForceUntil, m.ForceUntil, value)
		require.Equal(t, "a-b", m.Incarnation)
		requireRoundTrip(t, m)
	}
}

func TestDamagedMetadataIsAnErrorAndNotAGuess(t *testing.T) {
	_, err := Decode([]byte(minimal), map[string]string{"cqrs_after": "two"})
	requireDecodeError(t, err, "cqrs_after", "invalid syntax")
	_, err = Decode([]byte(minimal), map[string]string{"cqrs_force": "perhaps"})
	requireDecodeError(t, err, "cqrs_force", "invalid syntax")
}

func TestHeadersCannotPoseAsTheMessagesOwnMetadata(t *testing.T) {
	m := &Message{Headers: map[string]string{"cqrs_key": "x", "cqrs_force": "true", "correlation_id": "x", "baggage": "b"}}
	require.Equal(t, map[string]string{"cqrs_revision": "0", "baggage": "b"}, m.Metadata())
}

func TestTheMessageSharesTheBodyButCannotGrowIntoIt(t *testing.T) {
	body := []byte(minimal)
	m, err := Decode(body, nil)
	require.NoError(t, err)
	_ = append(m.Data, "!!!"...)
	_ = append(m.PK, "!!!"...)
	require.Equal(t, minimal, string(body))
}

func TestTimesAreReadInUTC(t *testing.T) {
	m, err := Decode([]byte(with("instance_data", `{"cqrs_revision":3,"cqrs_updated":"2026-01-02 03:04:05+03:00"}`)), nil)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 1, 2, 0, 4, 5, 0, time.UTC), m.Updated)
}
