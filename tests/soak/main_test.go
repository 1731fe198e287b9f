package soak

import (
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// removeQueue deletes a test's queue, its dead letters, and the exchange of the same name.
func removeQueue(t *testing.T, broker, name string) {
	t.Helper()
	conn, err := amqp091.Dial(broker)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	for _, queue := range []string{name, "dead_letter_" + name, name + ".database"} {
		_, err = channel.QueueDelete(queue, false, false, false)
		require.NoError(t, err)
	}
	require.NoError(t, channel.ExchangeDelete(name, false, false))
}
