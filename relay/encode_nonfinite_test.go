package relay

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// The database has JSON, and the wire what Python writes.
func TestNaNIsBareOnTheWire(t *testing.T) {
	shelve := func(object string) json.RawMessage {
		stored, err := envelope.Shelve(json.RawMessage(object))
		require.NoError(t, err)
		require.True(t, json.Valid(stored))
		return stored
	}
	var c queue.Claimed
	c.Message = queue.Message{
		Model: "probe", Key: "1", PK: json.RawMessage("1"), Signal: "SAVE", Revision: 2,
		Updated: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC),
		Data:    shelve(`{"id":1,"value":NaN,"list":[1,-Infinity],"text":"NaN"}`), Previous: shelve(`{"value":Infinity}`),
	}
	out, err := new(encoder).encode(&c)
	require.NoError(t, err)
	require.Contains(t, string(out.Message.Payload), `"instance_data":{"id":1,"value":NaN,"list":[1,-Infinity],"text":"NaN",`+
		`"cqrs_revision":2,"cqrs_updated":"2026-11-30 12:00:00+00:00"},"previous_data":{"value":Infinity},`)

	c.Data = json.RawMessage(`{"cqrs_nonfinite":1,"id":1}`)
	_, err = new(encoder).encode(&c)
	require.ErrorContains(t, err, "cqrs_nonfinite")
}
