package transports_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/natsserver"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/nats"
)

// A server that goes and comes back loses nothing that it confirmed, and nobody has to be
// restarted.
func TestNATSServerComesBack(t *testing.T) {
	s := natsserver.New(t)
	address := s.URL() + "?ack_wait=2s&connect_timeout=2s"
	queue, topic := unique("queue"), unique("topic")
	messages, err := natsSubscriber(t, address, queue).SubscribeWindow(t.Context(), topic, 20)
	require.NoError(t, err)
	pub := natsPublisher(t, address)
	confirmed := map[string]bool{}
	publish := func() bool {
		batch := outgoing(topic, 5)
		for i, err := range pub.PublishBatch(t.Context(), batch) {
			if err != nil {
				require.ErrorIs(t, err, transport.ErrUnavailable)
				return false
			}
			confirmed[batch[i].Message.UUID] = true
		}
		return true
	}
	require.NoError(t, pub.Probe(t.Context()))
	for range 3 {
		require.Eventually(t, publish, patience, 20*time.Millisecond)
		held := receive(t, messages)
		s.Stop()
		require.False(t, publish())
		require.ErrorIs(t, pub.Probe(t.Context()), transport.ErrUnavailable)
		delete(confirmed, held.UUID)
		held.Ack() // perhaps it comes again
		s.Start(t)
		require.Eventually(t, publish, patience, 20*time.Millisecond)
		for len(confirmed) > 0 {
			msg := receive(t, messages)
			delete(confirmed, msg.UUID)
			msg.Ack()
		}
	}
}

// Nobody waits for a server longer than told, and what is away is unavailable.
func TestNATSServerThatIsAway(t *testing.T) {
	address := "nats://127.0.0.1:1?connect_timeout=1s"
	for _, err := range natsPublisher(t, address).PublishBatch(t.Context(), outgoing("order", 2)) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
	}
	sub := natsSubscriber(t, address, "queue")
	_, err := sub.Subscribe(t.Context(), "order")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	_, err = sub.HasQueue(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
}

// What the user may not do is said of the destination, at once, and messages that go elsewhere pass.
func TestNATSPermissions(t *testing.T) {
	s := natsserver.New(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "s3cret-a"},
			{Username: "relay", Password: "s3cret-r", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"cqrs.customer"}},
			}},
		}
	})
	url := func(user string) string { return "nats://" + user + "@" + s.Address() }
	admin := natsSubscriber(t, url("admin:s3cret-a"), "stats")
	require.NoError(t, admin.KeepQueue(t.Context(), []string{"order", "customer"}))
	pub := natsPublisher(t, url("relay:s3cret-r"))
	batch := outgoing("order", 4)
	batch[1].Topic, batch[3].Topic = "customer", "customer"
	began := time.Now()
	for i, err := range pub.PublishBatch(t.Context(), batch) {
		if i%2 == 0 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, transport.ErrDestination)
		require.ErrorContains(t, err, "cqrs.customer")
	}
	require.Less(t, time.Since(began), patience/2)
	inQueue(t, admin, 2)

	for _, wrong := range []string{"relay:s3cret-x", "s3cret-token", "nobody:s3cret-r"} {
		err := natsPublisher(t, url(wrong)).Probe(t.Context())
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

// The permissions that docs/transports.md names are enough.
func TestNATSPermissionsOfTheDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/transports.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "| who | publishes to |")
	require.True(t, found)
	allowed := func(who string) []string {
		line := regexp.MustCompile(`(?m)^\| ` + who + ` \| (.*) \|$`).FindStringSubmatch(table)
		require.NotNil(t, line, who)
		var subjects []string
		for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line[1], -1) {
			if !strings.Contains(quoted[1], "=") { // an option
				subjects = append(subjects, quoted[1])
			}
		}
		return subjects
	}
	user := func(name string, publish ...string) *server.User {
		return &server.User{Username: name, Password: "x", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}}
	}
	replica := allowed("a subscriber")
	s := natsserver.New(t, func(o *server.Options) {
		o.Users = []*server.User{
			user("relay", allowed("a publisher")...), user("replica", replica...),
			user("operator", append(replica, allowed("who reads dead letters")...)...),
		}
	})
	url := func(user string) string { return "nats://" + user + ":x@" + s.Address() }
	pub := natsPublisher(t, url("relay"))
	require.NoError(t, pub.Probe(t.Context()))
	sub := natsSubscriber(t, url("replica"), "stats")
	messages, err := sub.SubscribeWindow(t.Context(), "order", 5)
	require.NoError(t, err)
	require.NoError(t, sub.KeepQueue(t.Context(), []string{"order", "customer"}))
	_, err = sub.Register(t.Context(), "database")
	require.NoError(t, err)
	batch := outgoing("order", 2)
	batch[1].Topic = transport.DirectTopic("stats", "customer")
	accepted(t, pub.PublishBatch(t.Context(), batch), 2)
	require.Equal(t, ids(batch), acked(t, messages, 2))
	config, err := nats.NewConfig(url("replica"), "")
	require.NoError(t, err)
	config.Inbox = true
	inbox, err := nats.NewSubscriber(config)
	require.NoError(t, err)
	defer func() { require.NoError(t, inbox.Close()) }()
	asked, err := inbox.Subscribe(t.Context(), transport.MasterTopic("order"))
	require.NoError(t, err)
	batch = outgoing(transport.MasterTopic("order"), 1)
	accepted(t, pub.PublishBatch(t.Context(), batch), 1)
	require.Equal(t, ids(batch), acked(t, asked, 1))
	letters := outgoing(transport.DirectTopic(sub.DeadLetterQueue(), "order"), 3)
	accepted(t, pub.PublishBatch(t.Context(), letters), 3)
	box := natsSubscriber(t, url("operator"), "stats")
	require.NoError(t, box.EachDeadLetter(t.Context(), sub.DeadLetterQueue(), func(l transport.DeadLetter) (bool, error) {
		return true, l.Remove()
	}))
	_, err = box.PurgeDeadLetters(t.Context(), sub.DeadLetterQueue())
	require.NoError(t, err)
}

// A stream that is full takes nothing, and says so of each message, until there is room.
func TestNATSStreamThatIsFull(t *testing.T) {
	address := natsserver.New(t).URL() + "?max_bytes=100000"
	messages, err := natsSubscriber(t, address, "stats").SubscribeWindow(t.Context(), "order", 1000)
	require.NoError(t, err)
	pub := natsPublisher(t, address)
	large := func() *message.Message {
		return message.NewMessage(unique("large"), make([]byte, 30_000))
	}
	var full error
	stored := 0
	for full == nil {
		if full = pub.Publish("order", large()); full == nil {
			stored++
		}
	}
	require.ErrorIs(t, full, transport.ErrRejected)
	require.True(t, transport.AtDestination(full))
	acked(t, messages, stored)
	require.Eventually(t, func() bool { return pub.Publish("order", large()) == nil },
		patience, 10*time.Millisecond)
}

// A message that the server has no room for is refused itself, and its neighbours pass.
func TestNATSMessageThatIsTooLarge(t *testing.T) {
	address := natsserver.New(t).URL()
	messages, err := natsSubscriber(t, address, "stats").SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	batch := outgoing("order", 3)
	batch[1].Message.Payload = make([]byte, 2<<20)
	errs := natsPublisher(t, address).PublishBatch(t.Context(), batch)
	require.NoError(t, errs[0])
	require.NoError(t, errs[2])
	require.ErrorContains(t, errs[1], "payload")
	require.NotErrorIs(t, errs[1], transport.ErrUnavailable)
	require.False(t, transport.AtDestination(errs[1]))
	require.Equal(t, []string{batch[0].Message.UUID, batch[2].Message.UUID}, acked(t, messages, 2))
}

// A repeated PublishBatch is stored once, and what somebody sends again by hand twice.
func TestNATSRepetitions(t *testing.T) {
	address := natsserver.New(t).URL()
	messages, err := natsSubscriber(t, address, "stats").SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	batch := outgoing("order", 3)
	for range 3 {
		accepted(t, natsPublisher(t, address).PublishBatch(t.Context(), batch), 3)
	}
	require.NoError(t, natsPublisher(t, address).Publish("order", batch[0].Message))
	require.NoError(t, natsPublisher(t, address).Publish("order", batch[0].Message))
	want := append(ids(batch), batch[0].Message.UUID, batch[0].Message.UUID)
	require.Equal(t, want, acked(t, messages, 5))
	silent(t, messages)
}

// Where somebody else makes streams and consumers, who needs them says what to make.
func TestNATSDeclaredByOthers(t *testing.T) {
	address := natsserver.New(t).URL()
	only := address + "?declare=false"
	sub := natsSubscriber(t, only, "stats")
	require.ErrorContains(t, sub.KeepQueue(t.Context(), []string{"order"}), "make it, with the subjects cqrs.>")
	errs := natsPublisher(t, only).PublishBatch(t.Context(), outgoing("order", 1))
	require.ErrorContains(t, errs[0], "make it")
	require.NoError(t, natsSubscriber(t, address, "other").KeepQueue(t.Context(), []string{"order"}))
	err := sub.KeepQueue(t.Context(), []string{"order"})
	noQueue(t, err)
	require.ErrorContains(t, err, "make the consumer stats")
	require.NoError(t, natsSubscriber(t, address, "stats").KeepQueue(t.Context(), []string{"order"}))
	require.NoError(t, sub.KeepQueue(t.Context(), []string{"order"}))
	require.ErrorContains(t, sub.KeepQueue(t.Context(), []string{"order", "customer"}), "not bound")
	messages, err := sub.SubscribeWindow(t.Context(), "order", 1)
	require.NoError(t, err)
	batch := outgoing("order", 1)
	accepted(t, natsPublisher(t, only).PublishBatch(t.Context(), batch), 1)
	require.Equal(t, ids(batch), acked(t, messages, 1))
}

// A stream of somebody else's is left as it is.
func TestNATSStreamOfAnotherKind(t *testing.T) {
	address := natsserver.New(t).URL()
	nc, _ := natsAdmin(t, address)
	_, err := nc.Request("$JS.API.STREAM.CREATE.cqrs",
		[]byte(`{"name":"cqrs","subjects":["cqrs.>"],"retention":"limits","storage":"file"}`), patience)
	require.NoError(t, err)
	_, err = natsSubscriber(t, address, "stats").Subscribe(t.Context(), "order")
	require.ErrorContains(t, err, "retention is Limits, want Interest")
	require.ErrorContains(t, err, "message TTLs are off")
	require.ErrorContains(t, err, "stream=NAME")
	require.NotErrorIs(t, err, transport.ErrUnavailable)
	require.NoError(t, natsSubscriber(t, address+"?stream=other", "stats").KeepQueue(t.Context(), []string{"order"}))
}

func TestNATSWithTLS(t *testing.T) {
	dir := t.TempDir()
	certificate, key := selfSigned(t, dir)
	s := natsserver.New(t, func(o *server.Options) {
		config, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: certificate, KeyFile: key})
		require.NoError(t, err)
		o.TLSConfig = config
	})
	pub := natsPublisher(t, s.URL()+"?cacertfile="+certificate)
	require.NoError(t, pub.Probe(t.Context()))
	require.ErrorIs(t, natsPublisher(t, s.URL()+"?tls=true").Probe(t.Context()), transport.ErrUnavailable,
		"nobody known has signed it")
	_, err := nats.NewConfig(s.URL()+"?cacertfile="+filepath.Join(dir, "nothing"), "")
	require.ErrorContains(t, err, "cacertfile")
}

// After a deadline nothing is sent, also of what was on its way to the socket.
func TestNATSConfirmThatDoesNotCome(t *testing.T) {
	s := natsserver.New(t)
	proxy, behind := dbtest.NewProxy(t, s.URL())
	require.NoError(t, natsSubscriber(t, s.URL(), "stats").KeepQueue(t.Context(), []string{"order"}))
	pub := natsPublisher(t, behind+"?confirm_timeout=500ms")
	require.NoError(t, pub.Probe(t.Context()))
	accepted(t, pub.PublishBatch(t.Context(), outgoing("order", 1)), 1)
	proxy.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for i, err := range pub.PublishBatch(ctx, outgoing("order", 50)) {
		require.ErrorIs(t, err, transport.ErrUnavailable, fmt.Sprint(i))
		require.False(t, strings.Contains(err.Error(), "@"))
	}
}

// selfSigned writes a certificate for this machine, and its key.
func selfSigned(t testing.TB, dir string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	write := func(name, kind string, bytes []byte) string {
		path := filepath.Join(dir, name)
		content := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes})
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	return write("certificate.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret)
}
