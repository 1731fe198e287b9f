package transport_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleDirectTopic() {
	fmt.Println(transport.DirectTopic("webhooks", "order"))
	// Output: cqrs.webhooks.order
}

func TestBatchLeavesABatchPublisherAlone(t *testing.T) {
	pub := memory.New().Publisher()
	require.Same(t, pub, transport.Batch(pub))
}

// limited is a stock publisher that takes a number of messages and then fails.
type limited struct {
	message.Publisher
	left      int
	published []string
}

var errLimit = errors.New("no more")

func (l *limited) Publish(topic string, messages ...*message.Message) error {
	if l.left < len(messages) {
		return errLimit
	}
	l.left -= len(messages)
	for _, msg := range messages {
		l.published = append(l.published, topic+" "+msg.UUID)
	}
	return l.Publisher.Publish(topic, messages...)
}

func setup(t *testing.T, left int) (*limited, transport.BatchPublisher) {
	stock := &limited{Publisher: gochannel.NewGoChannel(gochannel.Config{}, nil), left: left}
	pub := transport.Batch(stock)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return stock, pub
}

func batch(n int) []transport.Outgoing {
	out := make([]transport.Outgoing, n)
	for i := range out {
		out[i] = transport.Outgoing{Topic: "order", Message: message.NewMessage(fmt.Sprint(i), nil)}
	}
	return out
}

func TestBatchOverAStockPublisherPublishesOneAfterTheOther(t *testing.T) {
	stock, pub := setup(t, 3)
	require.Equal(t, []error{nil, nil, nil}, pub.PublishBatch(t.Context(), batch(3)))
	require.Equal(t, []string{"order 0", "order 1", "order 2"}, stock.published)
	require.Empty(t, pub.PublishBatch(t.Context(), nil))
}

// A message behind a failed one must not overtake it, so it is not even tried.
func TestBatchOverAStockPublisherStopsAtTheFirstError(t *testing.T) {
	stock, pub := setup(t, 2)
	errs := pub.PublishBatch(t.Context(), batch(4))
	require.Equal(t, []error{nil, nil}, errs[:2])
	for _, err := range errs[2:] {
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorIs(t, err, errLimit)
	}
	require.Equal(t, []string{"order 0", "order 1"}, stock.published)
}

func TestBatchOverAStockPublisherEndsWithItsContext(t *testing.T) {
	stock, pub := setup(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range pub.PublishBatch(ctx, batch(3)) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Empty(t, stock.published)
}

// picky is a stock publisher that knows what one topic is called.
type picky struct{ message.Publisher }

func (p picky) Publish(topic string, messages ...*message.Message) error {
	if topic == "nobody" {
		return fmt.Errorf("topic %s: %w", topic, transport.ErrUnroutable)
	}
	return p.Publisher.Publish(topic, messages...)
}

func TestBatchGoesOnWhereAStockPublisherSaysThatItIsTheDestination(t *testing.T) {
	pub := transport.Batch(picky{gochannel.NewGoChannel(gochannel.Config{}, nil)})
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	messages := batch(3)
	messages[1].Topic = "nobody"
	errs := pub.PublishBatch(t.Context(), messages)
	require.NoError(t, errs[0])
	require.True(t, transport.AtDestination(errs[1]), errs[1])
	require.NoError(t, errs[2])
}

func TestAtDestination(t *testing.T) {
	for _, err := range []error{transport.ErrUnroutable, transport.ErrRejected, transport.ErrDestination} {
		require.True(t, transport.AtDestination(fmt.Errorf("order: %w", err)))
		require.False(t, transport.AtDestination(errors.Join(transport.ErrUnavailable, err)), "then it is everybody's")
	}
	for _, err := range []error{nil, transport.ErrUnavailable, errors.New("too large")} {
		require.False(t, transport.AtDestination(err))
	}
}
