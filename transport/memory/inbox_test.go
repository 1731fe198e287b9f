package memory_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func expiring(id string, ttl time.Duration) *message.Message {
	msg := message.NewMessage(id, nil)
	msg.Metadata.Set(transport.ExpirationKey, fmt.Sprint(ttl.Milliseconds()))
	return msg
}

// strict is a publisher that learns whether a queue is there.
func strict(b *memory.Broker) *memory.Publisher {
	pub := b.Publisher()
	pub.RequireQueue = true
	return pub
}

func waiting(t *testing.T, b *memory.Broker, queue string) int64 {
	t.Helper()
	n, err := b.Subscriber(queue).Waiting(t.Context())
	require.NoError(t, err)
	return n
}

func TestAnInboxDropsWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		inbox := b.Inbox()
		require.NoError(t, inbox.SubscribeInitialize("in"))
		pub := strict(b)
		require.NoError(t, pub.Publish("in", expiring("short", time.Minute), expiring("long", time.Hour),
			message.NewMessage("plain", nil)))
		require.EqualValues(t, 3, waiting(t, b, "in"))
		time.Sleep(time.Minute) //nolint:forbidigo // of the bubble's time
		require.EqualValues(t, 2, waiting(t, b, "in"))
		time.Sleep(9*time.Minute - time.Millisecond) //nolint:forbidigo // of the bubble's time
		require.EqualValues(t, 2, waiting(t, b, "in"))
		time.Sleep(time.Millisecond) //nolint:forbidigo // of the bubble's time
		require.EqualValues(t, 0, waiting(t, b, "in"))
		require.NoError(t, pub.Publish("in", message.NewMessage("new", nil)))
		messages, err := inbox.Subscribe(t.Context(), "in")
		require.NoError(t, err)
		msg := <-messages
		require.Equal(t, "new", msg.UUID)
		msg.Ack()
		require.NoError(t, inbox.Close())
	})
}

// What a consumer returns after it has expired is gone, and what it returns before is not.
func TestAReturnedMessageExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		sub := b.Subscriber("webhooks")
		messages, err := sub.SubscribeWindow(t.Context(), "order", 2)
		require.NoError(t, err)
		require.NoError(t, b.Publisher().Publish("order",
			expiring("short", time.Minute), expiring("long", time.Hour)))
		short, long := <-messages, <-messages
		time.Sleep(time.Minute) //nolint:forbidigo // of the bubble's time
		short.Nack()
		long.Nack()
		again := <-messages
		require.Equal(t, "long", again.UUID)
		again.Ack()
		require.NoError(t, sub.Close())
		require.EqualValues(t, 0, waiting(t, b, "webhooks"))
	})
}

func TestAnInboxWithoutConsumersIsRemovedAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		inbox, pub := b.Inbox(), strict(b)
		require.NoError(t, inbox.SubscribeInitialize("never"))
		_, err := inbox.Subscribe(t.Context(), "used")
		require.NoError(t, err)
		require.NoError(t, b.Subscriber("webhooks").SubscribeInitialize("order"))
		time.Sleep(24*time.Hour - time.Millisecond) //nolint:forbidigo // of the bubble's time
		require.NoError(t, pub.Publish("never", message.NewMessage("1", nil)))
		time.Sleep(time.Millisecond) //nolint:forbidigo // of the bubble's time
		require.ErrorIs(t, pub.Publish("never", message.NewMessage("2", nil)), transport.ErrUnroutable)
		has, err := b.Subscriber("never").HasQueue(t.Context())
		require.NoError(t, err)
		require.False(t, has)
		time.Sleep(48 * time.Hour) //nolint:forbidigo // of the bubble's time
		require.NoError(t, pub.Publish("used", message.NewMessage("3", nil)), "it has a consumer")
		require.NoError(t, inbox.Close())
		time.Sleep(23 * time.Hour) //nolint:forbidigo // of the bubble's time
		require.NoError(t, pub.Publish("used", message.NewMessage("4", nil)), "it had one until now")
		time.Sleep(time.Hour) //nolint:forbidigo // of the bubble's time
		require.ErrorIs(t, pub.Publish("used", message.NewMessage("5", nil)), transport.ErrUnroutable)
		require.NoError(t, pub.Publish("order", message.NewMessage("6", nil)), "a replica's stays")
	})
}
