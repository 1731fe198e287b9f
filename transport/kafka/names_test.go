package kafka

import (
	"regexp"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

var standard = Config{}.withDefaults()

func TestWhereATopicIs(t *testing.T) {
	for topic, want := range map[string][2]string{
		"order":                              {"cqrs.order", ""},
		"cqrs.webhooks.order":                {"cqrs-queue.webhooks", "webhooks"},
		"cqrs.webhooks.a.b":                  {"cqrs-queue.webhooks", "webhooks"},
		"cqrs.":                              {"cqrs.cqrs.", ""},
		"cqrs..x":                            {"cqrs.cqrs..x", ""},
		"cqrsync.master.order":               {"cqrs.cqrsync.master.order", ""},
		"a b-xü":                             {"cqrs.a-x20b-x2dx-xc3-xbc", ""},
		transport.DirectTopic("dead", "a:b"): {"cqrs-queue.dead", "dead"},
	} {
		name, queue, err := standard.place(topic)
		require.NoError(t, err)
		require.Equal(t, want, [2]string{name, queue}, topic)
	}
	_, _, err := standard.place("")
	require.Error(t, err)
	_, _, err = standard.place(string(make([]byte, 100)))
	require.ErrorContains(t, err, "at most 249")
}

// FuzzNames: topics have names that Kafka takes, each its own.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"order", ".", "..", "-x", "-x2d", "-", "x", "ü", " ", "\x00", "%"} {
		f.Add(seed, seed+"-x2d")
	}
	legal := regexp.MustCompile(`^[A-Za-z0-9._-]*$`)
	f.Fuzz(func(t *testing.T, one, other string) {
		require.Equal(t, one == other, encodeName(one) == encodeName(other))
		require.Regexp(t, legal, encodeName(one))
	})
}

// FuzzCodec: what is in a message arrives as it was.
func FuzzCodec(f *testing.F) {
	for _, seed := range []string{"", "x", uuidHeader, keyHeader, "ü", "\x00", ":"} {
		f.Add(seed, "value"+seed, seed)
	}
	f.Fuzz(func(t *testing.T, key, value, id string) {
		if key == transport.ExpirationKey || key == transport.DirectKey {
			return
		}
		msg := message.NewMessage(id, []byte(value))
		msg.Metadata.Set(key, value)
		r, err := standard.encode("order", msg)
		require.NoError(t, err)
		require.NotNil(t, r.Value, "null would remove another message")
		require.NotEmpty(t, r.Key)
		got := decode(r)
		if id != "" {
			require.Equal(t, id, got.UUID)
		}
		require.Equal(t, value, string(got.Payload))
		require.Equal(t, message.Metadata{key: value}, got.Metadata)
	})
}

// Messages of one key are in one partition, of a queue's own topic those of each model.
func TestKeysOfRecords(t *testing.T) {
	keyOf := func(topic, key string) string {
		msg := message.NewMessage("id", nil)
		msg.Metadata.Set(keyHeader, key)
		r, err := standard.encode(topic, msg)
		require.NoError(t, err)
		return string(r.Key)
	}
	require.Equal(t, "17", keyOf("order", "17"))
	require.Equal(t, "order\x0017", keyOf("cqrs.webhooks.order", "17"))
	letter := transport.DirectTopic(deadLetterQueue("webhooks"), "order")
	require.NotEqual(t, keyOf(letter, "17"), keyOf(letter, "17"), "each letter can be removed")
	require.NotEqual(t, keyOf("order", ""), keyOf("order", ""), "compaction keeps both")
}
