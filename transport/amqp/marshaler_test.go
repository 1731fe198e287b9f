package amqp_test

import (
	"math"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

func TestMarshalerReadsWhatItWrites(t *testing.T) {
	sent := message.NewMessage("id", []byte("body"))
	sent.Metadata.Set("cqrs_key", "é")
	publishing, err := amqp.Marshaler{}.Marshal(sent)
	require.NoError(t, err)
	got, err := amqp.Marshaler{}.Unmarshal(amqp091.Delivery{
		MessageId: publishing.MessageId, Headers: publishing.Headers, Body: publishing.Body,
	})
	require.NoError(t, err)
	require.True(t, sent.Equals(got))
}

func TestExpirationIsAPropertyAndNoHeader(t *testing.T) {
	sent := message.NewMessage("id", []byte("body"))
	sent.Metadata.Set(transport.ExpirationKey, "864000000")
	publishing, err := amqp.Marshaler{}.Marshal(sent)
	require.NoError(t, err)
	require.Equal(t, "864000000", publishing.Expiration)
	require.Empty(t, publishing.Headers)
}

func TestMarshalerReadsMessagesOfWatermill(t *testing.T) {
	sent := message.NewMessage("id", []byte("body"))
	sent.Metadata.Set("key", "value")
	publishing, err := wamqp.DefaultMarshaler{}.Marshal(sent)
	require.NoError(t, err)
	got, err := amqp.Marshaler{}.Unmarshal(amqp091.Delivery{Headers: publishing.Headers, Body: publishing.Body})
	require.NoError(t, err)
	require.True(t, sent.Equals(got))
}

func TestMarshalerNeverFailsOnAHeader(t *testing.T) {
	got, err := amqp.Marshaler{}.Unmarshal(amqp091.Delivery{Headers: amqp091.Table{
		"nil": nil, "array of NaN": []any{math.NaN()}, "NaN": math.NaN(), "unknown": struct{ X int }{1},
	}})
	require.NoError(t, err)
	require.Equal(t, message.Metadata{"NaN": "NaN", "unknown": "{1}"}, got.Metadata)
}
