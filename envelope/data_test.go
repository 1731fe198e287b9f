package envelope

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStampAppendsRevisionAndTime(t *testing.T) {
	at := time.Date(2026, 11, 22, 22, 16, 33, 237828999, time.UTC)
	tests := []struct {
		data     string
		revision int64
		updated  time.Time
		want     string
	}{
		{`{"id":1}`, 3, at, `{"id":1,"cqrs_revision":3,"cqrs_updated":"2026-11-22 22:16:33.237828+00:00"}`},
		{`{}`, 0, time.Time{}, `{"cqrs_revision":0,"cqrs_updated":null}`},
		{" { } \n", 0, time.Time{}, `{ "cqrs_revision":0,"cqrs_updated":null}`},
		{`{"a":{}}`, -9223372036854775808, at.Truncate(time.Second),
			`{"a":{},"cqrs_revision":-9223372036854775808,"cqrs_updated":"2026-11-22 22:16:33+00:00"}`},
		// What is no object is left for Encode to refuse.
		{`[1]`, 1, at, `[1]`}, {`}`, 1, at, `}`}, {`1}`, 1, at, `1}`}, {``, 1, at, ``},
	}
	for _, test := range tests {
		require.Equal(t, test.want, string(Stamp(json.RawMessage(test.data), test.revision, test.updated)))
	}
}

func TestStampDoesNotWriteIntoItsArgument(t *testing.T) {
	row := []byte(`{"id":1}{"id":2}`)
	Stamp(row[:8], 3, time.Time{})
	require.Equal(t, `{"id":1}{"id":2}`, string(row))
}

func TestAStampOverrulesWhatTheRowHad(t *testing.T) {
	m := valid()
	m.Data = Stamp(json.RawMessage(`{"cqrs_revision":99,"cqrs_updated":"2020-01-01"}`), 3, time.Time{})
	body, err := m.Encode()
	require.NoError(t, err)
	again, err := Decode(body, nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, again.Revision)
	require.True(t, again.Updated.IsZero())
	fields, err := again.Fields()
	require.NoError(t, err)
	require.Empty(t, fields)
}

func TestADeleteNamesItsKeyIDWhateverTheColumnIs(t *testing.T) {
	require.Equal(t, `{"id":"n1"}`, string(DeleteData(json.RawMessage(`"n1"`))))
	require.Equal(t, `{"id":[1,2]}`, string(DeleteData(json.RawMessage(`[1,2]`))))
}

func TestFieldsAreTheColumnsAndNothingElse(t *testing.T) {
	m := &Message{Data: json.RawMessage(`{"id":7,"n\u00e9":1.10,"x":{"cqrs_revision":1},"cqrs_revision":3,"cqrs_updated":null,"id":8}`)}
	fields, err := m.Fields()
	require.NoError(t, err)
	require.Equal(t, map[string]json.RawMessage{
		"id": json.RawMessage("8"), "né": json.RawMessage("1.10"), "x": json.RawMessage(`{"cqrs_revision":1}`),
	}, fields)
}

func TestFieldsOfWhatIsNoObjectAreAnError(t *testing.T) {
	for _, data := range []string{"", "null", "[1]", `{"a":1`, `{"a":1}}`, `{"a":x}`} {
		_, err := (&Message{Data: json.RawMessage(data)}).Fields()
		require.ErrorContains(t, err, "instance_data: byte", data)
	}
}

func TestAppendStampWritesBehindWhatIsThere(t *testing.T) {
	data := AppendStamp([]byte("before"), json.RawMessage(`{"id":1}`), 3, time.Time{})
	require.Equal(t, `before{"id":1,"cqrs_revision":3,"cqrs_updated":null}`, string(data))
	require.Equal(t, "before[1]", string(AppendStamp([]byte("before"), json.RawMessage(`[1]`), 3, time.Time{})))
}

func TestABodyKeepsNothingOfTheDataItWasMadeFrom(t *testing.T) {
	m := valid()
	data := AppendStamp(nil, json.RawMessage(`{"id":1}`), m.Revision, m.Updated)
	m.Data = data
	body, err := m.Encode()
	require.NoError(t, err)
	before := string(body)
	clear(data)
	require.Equal(t, before, string(body))
}
