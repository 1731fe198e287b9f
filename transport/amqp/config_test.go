package amqp_test

import (
	"crypto/tls"
	"fmt"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport/amqp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleNewConfig() {
	config, err := amqp.NewConfig("amqp://guest:guest@localhost:5672/?mandatory=true&confirm_timeout=5s", "webhooks")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(config.Exchange.GenerateName("order"), config.Queue.GenerateName("order"))
	fmt.Println(config.Publish.Mandatory, config.ConfirmTimeout, config.Window)
	_, err = amqp.NewConfig("amqp://localhost?mandatroy=true", "webhooks")
	fmt.Println(err)
	// Output:
	// cqrs webhooks
	// true 5s 1000
	// RabbitMQ configuration: unknown URL parameter "mandatroy": want exchange, queue_type, mandatory, declare, connections, confirm_timeout, window, or RabbitMQ's auth_mechanism, cacertfile, certfile, channel_max, connection_timeout, heartbeat, keyfile, server_name_indication
}

func TestNewConfigPassesOnWhatIsRabbitMQs(t *testing.T) {
	config, err := amqp.NewConfig(
		"amqps://u%40x:p%2Fw@rabbit:5671/%2Fmy%2Fhost?exchange=x&heartbeat=7&queue_type=quorum&server_name_indication=sni&window=5", "")
	require.NoError(t, err)
	uri, err := amqp091.ParseURI(config.Connection.AmqpURI)
	require.NoError(t, err)
	require.Equal(t, "u@x", uri.Username)
	require.Equal(t, "p/w", uri.Password)
	require.Equal(t, "/my/host", uri.Vhost)
	require.Equal(t, 5671, uri.Port)
	require.Equal(t, "sni", uri.ServerName)
	require.Contains(t, config.Connection.AmqpURI, "heartbeat=7")
	require.NotContains(t, config.Connection.AmqpURI, "exchange")
	require.Equal(t, "x", config.Exchange.GenerateName("order"))
	require.Equal(t, "order", config.Queue.GenerateName("order"), "no queue: one per topic")
	require.Equal(t, "quorum", config.Queue.Arguments["x-queue-type"])
	require.Equal(t, 5, config.Window)
}

func TestNewConfigTakesSeveralNodes(t *testing.T) {
	config, err := amqp.NewConfig("amqp://u,1:p%40w@a:1,b:2,[::1]:3/v?heartbeat=7", "stats")
	require.NoError(t, err)
	require.Equal(t, "amqp://u,1:p%40w@a:1/v?heartbeat=7", config.Connection.AmqpURI)
	require.Equal(t, []string{"b:2", "[::1]:3"}, config.Hosts)
	for _, wrong := range []string{"a:1,", "a:1,,b:2", "a:1,b:x", ",b:2,"} {
		_, err := amqp.NewConfig("amqp://u:s3cret@"+wrong+"/v", "stats")
		require.Error(t, err, wrong)
		require.NotContains(t, err.Error(), "s3cret", wrong)
	}
	config.Hosts = []string{"c:1/other"}
	_, err = amqp.NewPublisher(config)
	require.ErrorContains(t, err, "several of host:5672")
}

func TestNewConfigReportsEveryMistakeAtOnce(t *testing.T) {
	_, err := amqp.NewConfig(
		"amqp://h?queue_type=stream&mandatory=maybe&confirm_timeout=30&window=0&prefetch=1&heartbeat=often", "a*")
	for _, part := range []string{
		"queue_type=stream: want classic or quorum", "mandatory=maybe: want true or false", "confirm_timeout=30: want",
		"window=0: want", `unknown URL parameter "prefetch"`, "heartbeat", `queue "a*"`,
	} {
		require.ErrorContains(t, err, part)
	}
}

func TestNewConfigNeverShowsThePassword(t *testing.T) {
	for _, rawURL := range []string{
		"amqp://guest:s3cret/x@host/", "amqp://guest:s3cret#x@host/", "amqp://guest:s3cret%zz@host/", "http://guest:s3cret@host/",
		"amqp://guest:s3cret x@host/", "amqp://guest:s3cret@host:port/", "amqp://guest:s3cret@host:99999999999/", "://guest:s3cret@",
		"amqp://guest:s3cret@host/?x", "amqp://guest:s3cret@host/?mandatory=%zz", "amqp://guest:s3cret@host/?heartbeat=-1", "", "host",
	} {
		_, err := amqp.NewConfig(rawURL, "queue")
		require.Error(t, err, rawURL)
		require.NotContains(t, err.Error(), "s3cret", rawURL)
	}
}

func TestConfigIsCheckedBeforeItIsUsed(t *testing.T) {
	_, err := amqp.NewPublisher(amqp.Config{})
	for _, part := range []string{"AmqpURI", "Marshaler", "Exchange.GenerateName", "Publish.GenerateRoutingKey", "TopologyBuilder"} {
		require.ErrorContains(t, err, part)
	}
	_, err = amqp.NewSubscriber(amqp.Config{})
	for _, part := range []string{"AmqpURI", "Marshaler", "Exchange.GenerateName", "Queue.GenerateName", "QueueBind.GenerateRoutingKey"} {
		require.ErrorContains(t, err, part)
	}

	config, err := amqp.NewConfig("amqp://host", "")
	require.NoError(t, err)
	config.ConfirmTimeout, config.Window, config.Publish.ChannelPoolSize = -1, -1, -1
	config.Publish.Transactional, config.Publish.Immediate = true, true
	config.Connection.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	config.Connection.AmqpConfig = &amqp091.Config{TLSClientConfig: config.Connection.TLSConfig, Recovery: &amqp091.Recovery{}}
	_, err = amqp.NewPublisher(config)
	for _, part := range []string{
		"ConfirmTimeout is -1ns", "Window is -1", "ChannelPoolSize is -1", "Transactional", "Immediate", "Recovery", "TLSConfig",
	} {
		require.ErrorContains(t, err, part)
	}
}

// Whoever has a configuration of watermill-amqp only needs to wrap it.
func TestConfigOfWatermillIsTaken(t *testing.T) {
	config := wamqp.NewDurablePubSubConfig("amqp://host", wamqp.GenerateQueueNameTopicNameWithSuffix("service"))
	pub, err := amqp.NewPublisher(amqp.Config{Config: config})
	require.NoError(t, err)
	require.NoError(t, pub.Close())
	sub, err := amqp.NewSubscriber(amqp.Config{Config: config})
	require.NoError(t, err)
	require.NoError(t, sub.Close())
}
