package nats

import (
	"regexp"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

func TestASubjectIsReadableWhereItCanBe(t *testing.T) {
	require.Equal(t, "cqrs.order", subject("cqrs", "order"))
	require.Equal(t, "cqrs.cqrs.webhooks.order", subject("cqrs", transport.DirectTopic("webhooks", "order")))
	require.Equal(t, "cqrs.a%20b.%2E%2A%3E%25%2E", subject("cqrs", "a b..*>%."))
	require.Equal(t, "cqrs.cqrs.dead_letter_q.>", directSubjects("cqrs", "dead_letter_q"))
}

// FuzzNames: topics have subjects that a server takes, each its own, and queues such consumers.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"order", ".", "..", "a..b", "a.", "%2E", "*", ">", "ü", " ", "a b", "\x00", "%"} {
		f.Add(seed, seed+".")
	}
	legal := regexp.MustCompile(`^cqrs(\.[^\x00-\x20\x7f-\x{10ffff}.*>]+)+$`)
	token := regexp.MustCompile(`^[A-Za-z0-9_%-]+$`)
	f.Fuzz(func(t *testing.T, one, other string) {
		if one == "" || other == "" {
			return
		}
		require.Equal(t, one == other, subject("cqrs", one) == subject("cqrs", other))
		require.Equal(t, one == other, consumerName(one) == consumerName(other))
		require.Regexp(t, token, consumerName(one))
		s := subject("cqrs", one)
		require.Regexp(t, legal, s)
		require.NotContains(t, s, "..")
	})
}

// FuzzCodec: what is in a message arrives as it was.
func FuzzCodec(f *testing.F) {
	for _, seed := range []string{"", "x", " x ", "a\r\nNats-TTL: 1s", "Nats-Rollup", "%41", "ü", "\x00", ":"} {
		f.Add(seed, "value"+seed, seed)
	}
	f.Fuzz(func(t *testing.T, key, value, id string) {
		if key == transport.ExpirationKey || key == transport.DirectKey {
			return
		}
		msg := message.NewMessage(id, []byte(value))
		msg.Metadata.Set(key, value)
		m, err := encode("cqrs.order", msg)
		require.NoError(t, err)
		for name, values := range m.Header { // as the protocol would carry it
			require.NotContains(t, name, ":")
			require.NotContains(t, name+values[0], "\r")
			require.NotContains(t, name+values[0], "\n")
			require.NotEmpty(t, name)
			require.False(t, isServers(name))
		}
		got := decode(m, "cqrs:1")
		if id != "" {
			require.Equal(t, id, got.UUID)
		}
		require.Equal(t, message.Metadata{key: value}, got.Metadata)
		require.Equal(t, value, string(got.Payload))
	})
}

// Of another publisher's message everything is kept that can be.
func TestAMessageOfAnotherPublisher(t *testing.T) {
	got := decode(&natsgo.Msg{Data: []byte("x"), Header: natsgo.Header{
		"Percent": {"100%"}, "Nats-Time-Stamp": {"now"}, "none": {},
	}}, "cqrs:7")
	require.Equal(t, "cqrs:7", got.UUID)
	require.Equal(t, message.Metadata{"Percent": "100%"}, got.Metadata)
}

func TestFiltersAreThoseOfTheServer(t *testing.T) {
	f := newFilters(jetstream.ConsumerConfig{FilterSubjects: []string{
		"cqrs.order", "cqrs.dead.>", "cqrs.*.customer", "cqrs.a.*.>",
	}})
	for subject, want := range map[string]bool{
		"cqrs.order": true, "cqrs.orders": false, "cqrs.dead": false, "cqrs.dead.a.b": true,
		"cqrs.x.customer": true, "cqrs.customer": false, "cqrs.x.y.customer": false,
		"cqrs.a.b": false, "cqrs.a.b.c": true,
	} {
		require.Equal(t, want, f.match(subject), subject)
	}
	require.True(t, newFilters(jetstream.ConsumerConfig{}).match("cqrs.x"), "it takes everything")
	require.False(t, newFilters().match("cqrs.x"))
	require.True(t, newFilters(jetstream.ConsumerConfig{FilterSubject: "cqrs.x"}).match("cqrs.x"))
}

func TestServersThatAreTooOldAreRefused(t *testing.T) {
	require.NoError(t, checkVersion("2.11.0"))
	require.NoError(t, checkVersion("3.0.0"))
	require.NoError(t, checkVersion("a fork's"))
	require.ErrorContains(t, checkVersion("2.9.10"), "want 2.11 or later")
	require.ErrorContains(t, checkVersion("1.4.1"), "want 2.11 or later")
}
