package transports_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/natsserver"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/nats"
)

func TestNATS(t *testing.T) {
	address := natsserver.New(t).URL()
	conform(t, broker{
		publisher: func(t testing.TB) transport.BatchPublisher {
			return natsPublisher(t, address+"?mandatory=false") // Watermill's suite publishes to nobody
		},
		subscriber: func(t testing.TB, queue string) transport.WindowSubscriber {
			return natsSubscriber(t, address, queue)
		},
		required: func(t testing.TB) transport.BatchPublisher { return natsPublisher(t, address) },
		inboxes: func(t testing.TB) transport.WindowSubscriber {
			config, err := nats.NewConfig(address, "")
			require.NoError(t, err)
			config.Inbox = true
			sub, err := nats.NewSubscriber(config)
			require.NoError(t, err)
			return sub
		},
		features: tests.Features{
			ConsumerGroups:                      true,
			GuaranteedOrder:                     true,
			GuaranteedOrderWithSingleSubscriber: true,
			Persistent:                          true,
		},
		topics: 300, // the server compares each filter of a consumer with each
	})
}

func natsPublisher(t testing.TB, rawURL string) *nats.Publisher {
	t.Helper()
	config, err := nats.NewConfig(rawURL, "")
	require.NoError(t, err)
	pub, err := nats.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func natsSubscriber(t testing.TB, rawURL, queue string) *nats.Subscriber {
	t.Helper()
	config, err := nats.NewConfig(rawURL, queue)
	require.NoError(t, err)
	sub, err := nats.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func TestConversationOverNATS(t *testing.T) {
	address := natsserver.New(t).URL()
	_, js := natsAdmin(t, address)
	converse(t, address, func(queue string) error {
		return js.DeleteConsumer(t.Context(), "cqrs", queue)
	})
}
