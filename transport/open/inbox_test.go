package open_test

import (
	"path/filepath"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// A replica asks its master, and knows when nobody answers, whatever the URL says of what it
// publishes else.
func TestAnInboxAndWhoWritesToIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	file = "sqlite://" + file
	for _, rawURL := range []string{"memory:" + watermill.NewShortUUID(), file, file + "?mandatory=false"} {
		t.Run(rawURL, func(t *testing.T) {
			topic := "cqrsync.master." + filepath.Base(rawURL)
			inbox, err := open.Inbox(rawURL, open.Options{})
			require.NoError(t, err)
			defer func() { require.NoError(t, inbox.Close()) }()
			require.NoError(t, inbox.(message.SubscribeInitializer).SubscribeInitialize("makes the file"))
			pub, err := open.Publisher(rawURL, open.Options{RequireQueue: true})
			require.NoError(t, err)
			defer func() { require.NoError(t, pub.Close()) }()
			require.ErrorIs(t, pub.Publish(topic, message.NewMessage("1", nil)), transport.ErrUnroutable)
			messages, err := inbox.SubscribeWindow(t.Context(), topic, 1)
			require.NoError(t, err)
			require.NoError(t, pub.Publish(topic, message.NewMessage("2", nil)))
			msg := <-messages
			require.Equal(t, "2", msg.UUID)
			msg.Ack()
			direct := transport.DirectTopic(topic, topic)
			require.ErrorIs(t, pub.Publish(direct, message.NewMessage("3", nil)), transport.ErrUnroutable)
		})
	}
}

func TestAnInboxOfAWrongURLSaysWhatIsWrong(t *testing.T) {
	for rawURL, want := range map[string]string{
		"pulsar://host":         "unknown scheme",
		"amqp://host/?window=x": "window",
		"sqlite://":             "the file is missing",
		"sqlite://:memory:":     "transport/memory",
	} {
		_, err := open.Inbox(rawURL, open.Options{})
		require.ErrorContains(t, err, want)
	}
	inbox, err := open.Inbox("amqp://127.0.0.1:1/", open.Options{})
	require.NoError(t, err, "nothing connects before it is used")
	require.NoError(t, inbox.Close())
}
