package transports_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cqrsync/cqrsync/transport"
)

// What is sent again because its answer was lost is stored once, and in its place.
func TestKafkaAnswersThatAreLost(t *testing.T) {
	k := newKafka(t)
	queue, topic := unique("queue"), unique("topic")
	messages, err := k.subscriber(t, queue, "").SubscribeWindow(t.Context(), topic, 1000)
	require.NoError(t, err)
	requests := 0
	k.fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.fake.KeepControl()
		if requests++; requests%3 == 0 {
			return nil, errors.New("the connection is cut"), true
		}
		return nil, nil, false
	})
	pub := k.publisher(t, "window=5")
	var want []string
	last := map[string]int{}
	for i := range 5 {
		batch := outgoing(topic, 20)
		for j := range batch {
			batch[j].Message.Metadata.Set("cqrs_key", fmt.Sprint(j%7))
			batch[j].Message.Payload = fmt.Append(nil, i*20+j)
		}
		accepted(t, pub.PublishBatch(t.Context(), batch), len(batch))
		want = append(want, ids(batch)...)
	}
	var got []string
	for range want {
		msg := receive(t, messages)
		var number int
		_, err := fmt.Sscan(string(msg.Payload), &number)
		require.NoError(t, err)
		key := msg.Metadata["cqrs_key"]
		require.GreaterOrEqual(t, number, last[key], "of one key each comes after the one before")
		last[key] = number
		got = append(got, msg.UUID)
		msg.Ack()
	}
	require.ElementsMatch(t, want, got)
	silent(t, messages)
}

// Nobody waits longer than told for brokers that say nothing, and another relay need not fear what
// this one had on its way.
func TestKafkaConfirmThatDoesNotCome(t *testing.T) {
	k := newKafka(t)
	queue, topic := unique("queue"), unique("topic")
	messages, err := k.subscriber(t, queue, "").SubscribeWindow(t.Context(), topic, 1000)
	require.NoError(t, err)
	pub := k.publisher(t, "confirm_timeout=500ms&connect_timeout=2s")
	first := outgoing(topic, 1)
	accepted(t, pub.PublishBatch(t.Context(), first), 1)
	silence := k.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Count: -1, Err: kerr.NotEnoughReplicas})
	for _, err := range pub.PublishBatch(t.Context(), outgoing(topic, 50)) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
	}
	silence.Remove()
	batch := outgoing(topic, 3)
	require.Eventually(t, func() bool {
		for _, err := range pub.PublishBatch(t.Context(), batch) {
			if err != nil {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
	require.Equal(t, append(ids(first), ids(batch)...), acked(t, messages, 4))
}

func TestKafkaBrokersThatAreAway(t *testing.T) {
	away := kafkaAt(t, "kafka://127.0.0.1:1")
	for _, err := range away.publisher(t, "connect_timeout=1s").PublishBatch(t.Context(), outgoing("order", 2)) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
	}
	sub := away.subscriber(t, "queue", "connect_timeout=1s")
	_, err := sub.Subscribe(t.Context(), "order")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	_, err = sub.HasQueue(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
}

// The cluster is stopped, with what it wrote down, and comes back: nothing that it confirmed is
// lost, and nobody has to be restarted.
func TestKafkaComesBack(t *testing.T) {
	dir := t.TempDir()
	start := func(options ...kfake.Opt) *kfake.Cluster {
		options = append(options, kfake.NumBrokers(1), kfake.DataDir(dir), kfake.SyncWrites(), kfake.GroupMinSessionTimeout(time.Second))
		cluster, err := kfake.NewCluster(options...)
		require.NoError(t, err)
		return cluster
	}
	cluster := start()
	defer func() { cluster.Close() }()
	address := cluster.ListenAddrs()[0]
	_, port, _ := strings.Cut(address, ":")
	number := 0
	_, err := fmt.Sscan(port, &number)
	require.NoError(t, err)
	k := kafkaAt(t, "kafka://"+address)
	queue, topic := unique("queue"), unique("topic")
	messages, err := k.subscriber(t, queue, "connect_timeout=2s").SubscribeWindow(t.Context(), topic, 20)
	require.NoError(t, err)
	pub := k.publisher(t, "connect_timeout=2s&confirm_timeout=1s")
	missing := map[string]bool{}
	publish := func() bool {
		batch := outgoing(topic, 5)
		ok := true
		for i, err := range pub.PublishBatch(t.Context(), batch) {
			if err != nil {
				require.ErrorIs(t, err, transport.ErrUnavailable)
				ok = false
				continue
			}
			missing[batch[i].Message.UUID] = true
		}
		return ok
	}
	for range 2 {
		require.Eventually(t, publish, patience, 20*time.Millisecond)
		held := receive(t, messages)
		cluster.Close()
		require.False(t, publish())
		require.ErrorIs(t, pub.Probe(t.Context()), transport.ErrUnavailable)
		delete(missing, held.UUID)
		held.Ack() // perhaps it comes again
		cluster = start(kfake.Ports(number))
		require.Eventually(t, publish, patience, 20*time.Millisecond)
		for len(missing) > 0 {
			msg := receive(t, messages)
			delete(missing, msg.UUID)
			msg.Ack()
		}
	}
}

// A message that is too large is refused itself, and its neighbours pass: also where a topic takes
// less at once than they have together.
func TestKafkaMessageThatIsTooLarge(t *testing.T) { messageIsTooLarge(t, newKafka(t)) }

func messageIsTooLarge(t *testing.T, k *kafkaPlace) {
	queue, topic := unique("queue"), unique("topic")
	limit := "20000"
	_, err := k.admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &limit}, k.prefix+"."+topic)
	require.NoError(t, err)
	messages, err := k.subscriber(t, queue, "").SubscribeWindow(t.Context(), topic, 100)
	require.NoError(t, err)
	batch := outgoing(topic, 12)
	for i := range batch {
		batch[i].Message.Payload = noise(5000)
	}
	batch[3].Message.Payload = noise(2_000_000)
	batch[7].Message.Payload = noise(40_000)
	var want []string
	for i, err := range k.publisher(t, "").PublishBatch(t.Context(), batch) {
		if i == 3 || i == 7 {
			require.ErrorContains(t, err, "MESSAGE_TOO_LARGE")
			require.NotErrorIs(t, err, transport.ErrUnavailable)
			require.False(t, transport.AtDestination(err))
			continue
		}
		require.NoError(t, err)
		want = append(want, batch[i].Message.UUID)
	}
	require.Equal(t, want, acked(t, messages, len(want)))
}

// noise cannot be compressed.
func noise(n int) []byte {
	var b []byte
	for len(b) < n {
		b = append(b, unique("")...)
	}
	return b[:n]
}

// Who may not write to a topic is told so of its messages, and others pass. Who may not log in
// learns no password.
func TestKafkaLogins(t *testing.T) {
	prefix := kmsg.ACLResourcePatternTypePrefixed
	all := func(kind kmsg.ACLResourceType, name string) kfake.ACL {
		return kfake.ACL{Resource: kind, Name: name, Pattern: prefix, Operation: kmsg.ACLOperationAll, Allow: true}
	}
	k := newKafka(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("SCRAM-SHA-512", "admin", "s3cret-a"),
		kfake.User("PLAIN", "relay", "s3cret-r", all(kmsg.ACLResourceTypeTopic, "x.order"),
			kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "x.", Pattern: prefix, Operation: kmsg.ACLOperationDescribe, Allow: true}))
	at := func(user, options string) *kafkaPlace {
		return &kafkaPlace{address: strings.Replace(k.address, "//", "//"+user+"@", 1) + "?" + options, prefix: "x"}
	}
	url := func(p *kafkaPlace) string { return p.address + "&prefix=x" }
	admin := kafkaSubscriber(t, url(at("admin:s3cret-a", "sasl=scram-sha-512")), "stats")
	require.NoError(t, admin.KeepQueue(t.Context(), []string{"order", "customer"}))
	batch := outgoing("order", 4)
	batch[1].Topic, batch[3].Topic = "customer", "customer"
	for i, err := range kafkaPublisher(t, url(at("relay:s3cret-r", "sasl=plain"))).PublishBatch(t.Context(), batch) {
		if i%2 == 0 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, transport.ErrDestination)
		require.ErrorContains(t, err, "customer")
	}
	inQueue(t, admin, 2)
	for _, wrong := range []string{"relay:s3cret-x", "nobody:s3cret-r"} {
		err := kafkaPublisher(t, url(at(wrong, "connect_timeout=1s"))).Probe(t.Context())
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestKafkaWithTLS(t *testing.T) {
	certificate, key := selfSigned(t, t.TempDir())
	pair, err := tls.LoadX509KeyPair(certificate, key)
	require.NoError(t, err)
	k := newKafka(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
	address := strings.Replace(k.address, "kafka://", "kafkas://", 1)
	for _, options := range []string{"", "&certfile=" + certificate + "&keyfile=" + key} {
		options = "?cacertfile=" + certificate + options
		messages, err := kafkaSubscriber(t, address+options, unique("stats")).SubscribeWindow(t.Context(), "order", 5)
		require.NoError(t, err)
		batch := outgoing("order", 3)
		accepted(t, kafkaPublisher(t, address+options).PublishBatch(t.Context(), batch), 3)
		require.Equal(t, ids(batch), acked(t, messages, 3))
	}
	require.ErrorIs(t, kafkaPublisher(t, address+"?connect_timeout=1s").Probe(t.Context()), transport.ErrUnavailable,
		"nobody known has signed it")
}

// Where somebody else makes topics, who needs them says what to make.
func TestKafkaTopicsOfOthers(t *testing.T) {
	k := newKafka(t)
	sub := k.subscriber(t, "stats", "declare=false")
	err := sub.KeepQueue(t.Context(), []string{"order"})
	noQueue(t, err)
	require.ErrorContains(t, err, "make its topics")
	for _, name := range []string{".order", "-queue.stats", "-queue.dead_letter_stats"} {
		require.NoError(t, k.fake.CreateTopic(k.prefix+name, 1, nil))
	}
	messages, err := sub.SubscribeWindow(t.Context(), "order", 5)
	require.NoError(t, err)
	batch := outgoing("order", 3)
	batch[1].Topic = transport.DirectTopic("stats", "order")
	accepted(t, k.publisher(t, "").PublishBatch(t.Context(), batch), 3)
	require.ElementsMatch(t, ids(batch), acked(t, messages, 3))
	letter := outgoing(transport.DirectTopic(sub.DeadLetterQueue(), "order"), 1)
	accepted(t, k.publisher(t, "").PublishBatch(t.Context(), letter), 1)
	require.Len(t, look(t, sub, sub.DeadLetterQueue(), 5), 1)
}

// The permissions that docs/transports.md names are enough, and each is needed.
func TestKafkaPermissionsOfTheDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/transports.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "| who | topics `cqrs` | groups `cqrs` |")
	require.True(t, found)
	operations := map[string]kmsg.ACLOperation{
		"Read": kmsg.ACLOperationRead, "Write": kmsg.ACLOperationWrite, "Describe": kmsg.ACLOperationDescribe,
		"Delete": kmsg.ACLOperationDelete, "Create": kmsg.ACLOperationCreate,
	}
	allowed := func(who, further string) (acls []kfake.ACL) {
		line := regexp.MustCompile(`(?m)^\| ` + who + ` \| (.*) \| (.*) \|$`).FindStringSubmatch(table)
		require.NotNil(t, line, who)
		kinds := []kmsg.ACLResourceType{kmsg.ACLResourceTypeTopic, kmsg.ACLResourceTypeGroup}
		for i, cell := range []string{line[1] + further, line[2]} {
			for name, operation := range operations {
				if strings.Contains(cell, name) {
					acls = append(acls, kfake.ACL{
						Resource: kinds[i], Name: "cqrs", Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: operation, Allow: true,
					})
				}
			}
		}
		return acls
	}
	k := newKafka(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "x"),
		kfake.User("PLAIN", "relay", "x", allowed("a publisher", "")...),
		kfake.User("PLAIN", "replica", "x", allowed("a subscriber", ", Create")...),
		kfake.User("PLAIN", "operator", "x", allowed("who reads dead letters", "")...))
	url := func(user string) string { return strings.Replace(k.address, "//", "//"+user+":x@", 1) }
	pub, sub := kafkaPublisher(t, url("relay")), kafkaSubscriber(t, url("replica"), "stats")
	messages, err := sub.SubscribeWindow(t.Context(), "order", 5)
	require.NoError(t, err)
	_, err = sub.Register(t.Context(), "database")
	require.NoError(t, err)
	batch := outgoing("order", 3)
	accepted(t, pub.PublishBatch(t.Context(), batch), 3)
	require.Equal(t, ids(batch), acked(t, messages, 3))
	inQueue(t, sub, 0)
	dead := sub.DeadLetterQueue()
	accepted(t, pub.PublishBatch(t.Context(), outgoing(transport.DirectTopic(dead, "order"), 3)), 3)
	box := kafkaSubscriber(t, url("operator"), "stats")
	removed := false
	require.NoError(t, box.EachDeadLetter(t.Context(), dead, func(l transport.DeadLetter) (bool, error) {
		removed = true
		return false, l.Remove()
	}))
	require.True(t, removed)
	purged, err := box.PurgeDeadLetters(t.Context(), dead)
	require.NoError(t, err)
	require.Equal(t, 2, purged)
	require.ErrorIs(t, sub.EachDeadLetter(t.Context(), dead, func(l transport.DeadLetter) (bool, error) {
		return false, l.Remove()
	}), nil, "there is none left")
	_, err = kafkaSubscriber(t, url("relay")+"?connect_timeout=1s", "stats").Subscribe(t.Context(), "order")
	require.ErrorIs(t, err, transport.ErrDestination, "it lasts until an operator mends it")
}
