package transports_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/kafka"
)

func TestKafka(t *testing.T) {
	conform(t, newKafka(t).broker())
}

// kafkaVariable is where a real Kafka is. Without it tests of one start it, where Java and Maven are.
const kafkaVariable = "CQRSYNC_TEST_KAFKA"

// realKafka is a place on an Apache Kafka.
func realKafka(t testing.TB) *kafkaPlace {
	t.Helper()
	address := os.Getenv(kafkaVariable)
	if address == "" {
		address = servers.StartKafka(t, 1).URL()
	}
	return kafkaAt(t, address)
}

func TestRealKafka(t *testing.T) {
	k := realKafka(t)
	conform(t, k.broker())
	for name, test := range map[string]func(*testing.T, *kafkaPlace){
		"a consumer that is slow":               slowConsumer,
		"consumers that come and go":            consumersComeAndGo,
		"messages of a dead consumer":           consumerDies,
		"dead letters":                          deadLettersStay,
		"names":                                 namesAreKept,
		"a message that is too large":           messageIsTooLarge,
		"a new replica reads a compacted topic": compactedTopic,
	} {
		t.Run(name, func(t *testing.T) { test(t, kafkaAt(t, k.address)) })
	}
	t.Run("a conversation", func(t *testing.T) { talk(t, kafkaAt(t, k.address)) })
}

// kafkaPlace is topics of its own on a cluster.
type kafkaPlace struct {
	address, prefix string
	admin           *kadm.Client
	fake            *kfake.Cluster // nil where the cluster is a real one
}

// newKafka is a place on a cluster that plays Kafka in this process.
func newKafka(t testing.TB, options ...kfake.Opt) *kafkaPlace {
	t.Helper()
	options = append([]kfake.Opt{kfake.NumBrokers(3), kfake.GroupMinSessionTimeout(time.Second)}, options...)
	cluster, err := kfake.NewCluster(options...)
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	k := kafkaAt(t, "kafka://"+strings.Join(cluster.ListenAddrs(), ","))
	k.fake = cluster
	return k
}

func kafkaAt(t testing.TB, address string) *kafkaPlace {
	t.Helper()
	config, err := kafka.NewConfig(address, "")
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...))
	require.NoError(t, err)
	k := &kafkaPlace{address: address, prefix: "test" + strings.ReplaceAll(unique(""), "-", ""), admin: kadm.NewClient(client)}
	t.Cleanup(k.admin.Close)
	return k
}

func (k *kafkaPlace) broker() broker {
	return broker{
		publisher: func(t testing.TB) transport.BatchPublisher {
			return k.publisher(t, "mandatory=false") // Watermill's suite publishes to nobody
		},
		subscriber: func(t testing.TB, queue string) transport.WindowSubscriber {
			return k.subscriber(t, queue, "partitions=2")
		},
		required: func(t testing.TB) transport.BatchPublisher { return k.publisher(t, "") },
		inboxes: func(t testing.TB) transport.WindowSubscriber {
			config := k.config(t, "", "")
			config.Inbox = true
			sub, err := kafka.NewSubscriber(config)
			require.NoError(t, err)
			return sub
		},
		features: tests.Features{
			ConsumerGroups:                      true,
			GuaranteedOrder:                     true,
			GuaranteedOrderWithSingleSubscriber: true,
			Persistent:                          true,
		},
		topics:        50, // each has partitions
		perTopic:      true,
		countsExpired: true,
	}
}

// url is that of the place; options are URL parameters.
func (k *kafkaPlace) url(options string) string {
	return k.address + "?prefix=" + k.prefix + "&" + options
}

func (k *kafkaPlace) config(t testing.TB, queue, options string) kafka.Config {
	t.Helper()
	config, err := kafka.NewConfig(k.url(options), queue)
	require.NoError(t, err)
	return config
}

func (k *kafkaPlace) publisher(t testing.TB, options string) *kafka.Publisher {
	t.Helper()
	return kafkaPublisher(t, k.url(options))
}

func (k *kafkaPlace) subscriber(t testing.TB, queue, options string) *kafka.Subscriber {
	t.Helper()
	return kafkaSubscriber(t, k.url(options), queue)
}

// deleteQueue deletes a queue as an operator does: the groups, and with them how far it was.
func (k *kafkaPlace) deleteQueue(ctx context.Context, queue string) error {
	deleted, err := k.admin.DeleteGroups(ctx, k.prefix+"-bound."+queue, k.prefix+"."+queue)
	if err != nil {
		return err
	}
	return deleted.Error()
}

func TestConversationOverKafka(t *testing.T) { talk(t, newKafka(t)) }

func talk(t *testing.T, k *kafkaPlace) {
	converse(t, k.url(""), func(queue string) error { return k.deleteQueue(t.Context(), queue) })
}

func kafkaPublisher(t testing.TB, rawURL string) *kafka.Publisher {
	t.Helper()
	config, err := kafka.NewConfig(rawURL, "")
	require.NoError(t, err)
	pub, err := kafka.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func kafkaSubscriber(t testing.TB, rawURL, queue string) *kafka.Subscriber {
	t.Helper()
	config, err := kafka.NewConfig(rawURL, queue)
	require.NoError(t, err)
	sub, err := kafka.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}
