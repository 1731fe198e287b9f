package transport_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// brokerOf says of each topic what becomes of a message to it.
type brokerOf map[string]error

func (b brokerOf) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	for i, out := range batch {
		out.Message.SetContext(ctx) // as publishers do
		errs[i] = b[out.Topic]
	}
	return errs
}

func (b brokerOf) Publish(topic string, _ ...*message.Message) error { return b[topic] }
func (b brokerOf) Close() error                                      { return b["close"] }

func (b brokerOf) Probe(context.Context) error { return b["probe"] }

func TestAllIsPublishedWhenEveryBrokerHasIt(t *testing.T) {
	away := errors.Join(transport.ErrUnavailable, errors.New("away"))
	full := errors.Join(transport.ErrRejected, errors.New("full"))
	one := brokerOf{
		"one's": nil, "nobody's": transport.ErrUnroutable, "away": away, "full": full,
		"full here": full, "probe": away, "close": full,
	}
	other := brokerOf{
		"one's": transport.ErrUnroutable, "nobody's": transport.ErrUnroutable,
		"full here": transport.ErrUnroutable, "full": away,
	}
	all := transport.All(one, other)
	topics := []string{"both", "one's", "nobody's", "away", "full", "full here"}
	batch := make([]transport.Outgoing, len(topics))
	for i, topic := range topics {
		batch[i] = transport.Outgoing{Topic: topic, Message: message.NewMessage(topic, nil)}
	}
	errs := all.PublishBatch(t.Context(), batch)
	require.NoError(t, errs[0])
	require.NoError(t, errs[1], "the other broker has no queue for it")
	require.ErrorIs(t, errs[2], transport.ErrUnroutable)
	require.ErrorIs(t, errs[3], transport.ErrUnavailable)
	require.False(t, transport.AtDestination(errs[4]), "one is away: nobody's fault but its own")
	require.True(t, transport.AtDestination(errs[5]))
	for i, topic := range topics {
		err := all.Publish(topic, batch[i].Message)
		require.Equal(t, errs[i] == nil, err == nil, topic)
	}
	require.ErrorIs(t, transport.Probe(t.Context(), all), transport.ErrUnavailable)
	require.ErrorIs(t, all.Close(), transport.ErrRejected)
}
