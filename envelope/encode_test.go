package envelope

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func valid() *Message {
	return &Message{
		Signal: Save, Model: "order", PK: json.RawMessage("7"), Key: "7", Revision: 3,
		Data: Stamp(json.RawMessage(`{"id":7}`), 3, time.Time{}),
	}
}

func TestTheBodyHasAllNineKeysInOrder(t *testing.T) {
	m := valid()
	body, err := m.Encode()
	require.NoError(t, err)
	require.Equal(t, `{"signal_type":"SAVE","cqrs_id":"order","instance_data":{"id":7,"cqrs_revision":3,"cqrs_updated":null},`+
		`"previous_data":null,"instance_pk":7,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`, string(body))
}

func TestEverythingIsWrittenCompact(t *testing.T) {
	m := valid()
	m.Data = json.RawMessage(" { \"a b\" : [ 1 , \" \\\" \" ] ,\n\"cqrs_revision\":\t3 } ")
	m.Previous = json.RawMessage(` { "x" : null } `)
	m.Meta = json.RawMessage(` null `)
	m.PK = json.RawMessage(`[ 1, "a b" ]`)
	m.CorrelationID = "a\"\\\b\t\n\f\r\x01\x1f/é"
	m.Retries = 2
	m.Expires = time.Date(2026, 11, 23, 23, 16, 33, 1999, time.FixedZone("", 3600))
	body, err := m.Encode()
	require.NoError(t, err)
	require.Equal(t, `{"signal_type":"SAVE","cqrs_id":"order","instance_data":{"a b":[1," \" "],"cqrs_revision":3},`+
		`"previous_data":{"x":null},"instance_pk":[1,"a b"],"correlation_id":"a\"\\\b\t\n\f\r\u0001\u001f/é","retries":2,`+
		`"expires":"2026-11-23T22:16:33.000001+00:00","meta":{}}`, string(body))
	require.True(t, json.Valid(body))
}

func TestExpiresAlwaysHasAZone(t *testing.T) {
	m := valid()
	m.Expires = time.Date(2026, 11, 23, 22, 16, 33, 0, time.UTC)
	body, err := m.Encode()
	require.NoError(t, err)
	require.Contains(t, string(body), `"expires":"2026-11-23T22:16:33+00:00"`)
}

func TestAMessageThatReadersWouldStumbleOverIsRefused(t *testing.T) {
	tests := map[string]struct {
		spoil func(*Message)
		want  string
	}{
		"no signal":       {func(m *Message) { m.Signal = "" }, `signal_type: "" is none of SAVE, DELETE and SYNC`},
		"unknown signal":  {func(m *Message) { m.Signal = "PATCH" }, `signal_type: "PATCH" is none of`},
		"model":           {func(m *Message) { m.Model = "a.b" }, `cqrs_id: "a.b": use letters`},
		"no PK":           {func(m *Message) { m.PK = nil }, "instance_pk: missing"},
		"PK text":         {func(m *Message) { m.PK = json.RawMessage("abc") }, "instance_pk: not JSON: byte 0"},
		"PK object":       {func(m *Message) { m.PK = json.RawMessage("{}") }, "instance_pk: want a string, a number or a boolean, got an object"},
		"PK NaN":          {func(m *Message) { m.PK = json.RawMessage("NaN") }, "instance_pk: not JSON: it has a bare NaN"},
		"no Data":         {func(m *Message) { m.Data = nil }, "instance_data: missing"},
		"Data text":       {func(m *Message) { m.Data = json.RawMessage(`{"a":`) }, "instance_data: not JSON: byte 5"},
		"Data twice":      {func(m *Message) { m.Data = json.RawMessage(`{}{}`) }, "instance_data: not JSON: byte 2"},
		"Data array":      {func(m *Message) { m.Data = json.RawMessage(`[]`) }, "instance_data: want an object, got an array"},
		"Data not UTF-8":  {func(m *Message) { m.Data = json.RawMessage("{\"a\":\"\xff\"}") }, "instance_data: not UTF-8"},
		"Data with NaN":   {func(m *Message) { m.Data = json.RawMessage(`{"a":NaN}`) }, "instance_data: not JSON: it has a bare NaN"},
		"not stamped":     {func(m *Message) { m.Data = json.RawMessage(`{"id":7}`) }, "instance_data: no cqrs_revision: use Stamp"},
		"other revision":  {func(m *Message) { m.Revision = 4 }, "instance_data: cqrs_revision is 3, the message's is 4"},
		"revision text":   {func(m *Message) { m.Data = json.RawMessage(`{"cqrs_revision":"3"}`) }, `instance_data: cqrs_revision is "3"`},
		"revision zero":   {func(m *Message) { m.Data, m.Revision = json.RawMessage(`{"cqrs_revision":null}`), 0 }, "cqrs_revision is null"},
		"finite":          {func(m *Message) { m.NonFinite = NonFinite{"cqrs_updated": json.RawMessage("1")} }, `NonFinite has 1 for "cqrs_updated"`},
		"not null":        {func(m *Message) { m.NonFinite = NonFinite{"id": json.RawMessage("NaN")} }, `NonFinite names "id", for which the object does not have null`},
		"no such field":   {func(m *Message) { m.NonFinite = NonFinite{"x": json.RawMessage("NaN")} }, `NonFinite names "x"`},
		"no value at all": {func(m *Message) { m.NonFinite = NonFinite{"id": nil} }, `NonFinite has no value for "id"`},
		"of no previous":  {func(m *Message) { m.PreviousNonFinite = NonFinite{"x": json.RawMessage("NaN")} }, "Previous is null"},
		"previous":        {func(m *Message) { m.Previous = json.RawMessage(`[]`) }, "previous_data: want an object, got an array"},
		"previous text":   {func(m *Message) { m.Previous = json.RawMessage(`}`) }, "previous_data: not JSON"},
		"meta":            {func(m *Message) { m.Meta = json.RawMessage(`1`) }, "meta: want an object, got a number"},
		"meta text":       {func(m *Message) { m.Meta = json.RawMessage(`{"a"}`) }, "meta: not JSON: byte 4: '}' where ':' should be"},
		"correlation":     {func(m *Message) { m.CorrelationID = "\xff" }, "correlation_id: not UTF-8"},
		"retries":         {func(m *Message) { m.Retries = -1 }, "retries: want a count, got -1"},
		"expires too far": {func(m *Message) { m.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "expires: year 10000"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := valid()
			test.spoil(m)
			body, err := m.Encode()
			require.Nil(t, body)
			require.ErrorContains(t, err, "encode message: ")
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestEverythingWrongIsSaidAtOnce(t *testing.T) {
	_, err := new(Message).Encode()
	for _, key := range []string{"signal_type", "cqrs_id", "instance_data", "instance_pk"} {
		require.ErrorContains(t, err, key+": ")
	}
}

func TestEncodeLeavesTheMessageAlone(t *testing.T) {
	m := valid()
	m.Data = json.RawMessage(`{"a": null, "cqrs_revision": 3}`)
	m.NonFinite = NonFinite{"a": json.RawMessage("-Infinity")}
	before := string(m.Data)
	body, err := m.Encode()
	require.NoError(t, err)
	require.Contains(t, string(body), `{"a":-Infinity,"cqrs_revision":3}`)
	require.Equal(t, before, string(m.Data))
}

func TestALongMessageIsWrittenWhole(t *testing.T) {
	m := valid()
	m.CorrelationID = strings.Repeat("\x00é\"", 1000)
	requireRoundTrip(t, m)
}
