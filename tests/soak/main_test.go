package soak

import (
	"net/url"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// removeFromBroker deletes a test's queue and exchange.
func removeFromBroker(t *testing.T, broker, name string) {
	t.Helper()
	u, err := url.Parse(broker)
	require.NoError(t, err)
	u.RawQuery = ""
	conn, err := amqp091.Dial(u.String())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	_, err = channel.QueueDelete(name, false, false, false)
	require.NoError(t, err)
	require.NoError(t, channel.ExchangeDelete(name, false, false))
}
