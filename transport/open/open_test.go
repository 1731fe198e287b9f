package open_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A broker is a URL; nothing else changes with it.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	subscriber, _ := open.Subscriber("memory:example", "webhooks", open.Options{})
	defer subscriber.Close()
	messages, _ := subscriber.Subscribe(ctx, "order")

	publisher, _ := open.Publisher("memory:example", open.Options{})
	defer publisher.Close()
	_ = publisher.Publish("order", message.NewMessage("1", []byte("to every queue")))
	_ = publisher.Publish(transport.DirectTopic("webhooks", "order"), message.NewMessage("2", []byte("to this one")))

	for range 2 {
		msg := <-messages
		fmt.Printf("%s\n", msg.Payload)
		msg.Ack()
	}
	// Output:
	// to every queue
	// to this one
}

func TestBothEndsOfAURLMeet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a broker%.db")
	for _, rawURL := range []string{"memory:", "memory:other", "sqlite://" + file + "?retention=0&mandatory=true"} {
		t.Run(rawURL, func(t *testing.T) {
			sub, err := open.Subscriber(rawURL, "webhooks", open.Options{})
			require.NoError(t, err)
			defer func() { require.NoError(t, sub.Close()) }()
			messages, err := sub.SubscribeWindow(t.Context(), "order", 2)
			require.NoError(t, err)

			pub, err := open.Publisher(rawURL, open.Options{})
			require.NoError(t, err)
			defer func() { require.NoError(t, pub.Close()) }()
			require.NoError(t, pub.Publish("order", message.NewMessage("id", []byte(rawURL))))

			select {
			case msg := <-messages:
				require.Equal(t, rawURL, string(msg.Payload), "each URL its own broker")
				msg.Ack()
			case <-time.After(30 * time.Second):
				require.Fail(t, "no message arrived")
			}
		})
	}
	require.FileExists(t, file)
}

func TestOptionsOfTheURLTakeEffect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	sub, err := open.Subscriber("sqlite:///"+file, "webhooks", open.Options{}) // four slashes
	require.NoError(t, err)
	require.NoError(t, sub.(message.SubscribeInitializer).SubscribeInitialize("customer"))
	require.NoError(t, sub.Close())
	require.FileExists(t, file)
	for rawURL, want := range map[string]error{
		"sqlite://" + file:                      transport.ErrUnroutable,
		"sqlite://" + file + "?mandatory=false": nil,
		"sqlite://" + file + "?mandatory=true":  transport.ErrUnroutable,
	} {
		pub, err := open.Publisher(rawURL, open.Options{})
		require.NoError(t, err)
		require.ErrorIs(t, pub.Publish("order", message.NewMessage("id", nil)), want)
		require.NoError(t, pub.Close())
	}
}

func TestNothingConnectsBeforeItIsUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	for _, rawURL := range []string{"sqlite://" + file, "amqp://127.0.0.1:1/", "memory:"} {
		pub, err := open.Publisher(rawURL, open.Options{})
		require.NoError(t, err)
		require.NoError(t, pub.Close())
		sub, err := open.Subscriber(rawURL, "webhooks", open.Options{})
		require.NoError(t, err)
		require.NoError(t, sub.Close())
	}
	_, err := os.Stat(file)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAWrongURLSaysWhatIsWrong(t *testing.T) {
	for rawURL, wants := range map[string][]string{
		"":                              {"unknown scheme", "amqp://", "amqps://", "sqlite://FILE", "memory:"},
		"pulsar://host":                 {"unknown scheme", `"pulsar://host"`},
		"broker.db":                     {"unknown scheme"},
		"sqlite:broker.db":              {"the file is missing", "sqlite://FILE"},
		"sqlite://":                     {"the file is missing"},
		"sqlite://?retention=1h":        {"the file is missing"},
		"sqlite://x?retention=week&a=b": {`retention is "week"`, "36h", `unknown option "a"`},
		"sqlite://x?retention=-1h":      {`retention is "-1h"`},
		"sqlite://x?mandatory=perhaps":  {"mandatory", "true or false"},
		"sqlite://x?%zz":                {"option=value"},
		"sqlite://what?.db":             {"a ? begins the options"},
		"sqlite://folder/":              {"that of a folder"},
		"memory://name":                 {"memory:NAME"},
		"amqp://host/?nonsense=1":       {"nonsense"},
	} {
		_, err := open.Publisher(rawURL, open.Options{})
		require.Error(t, err, rawURL)
		for _, want := range wants {
			require.ErrorContains(t, err, want)
		}
		_, err = open.Subscriber(rawURL, "", open.Options{})
		require.ErrorContains(t, err, "the queue has no name")
		require.ErrorContains(t, err, wants[0], "all at once")
	}
	_, err := open.Publisher("sqlite://:memory:", open.Options{})
	require.ErrorContains(t, err, "transport/memory")
}

func TestTheFileOfABrokerURL(t *testing.T) {
	for rawURL, want := range map[string]string{
		"sqlite://broker.db":                  "broker.db",
		"sqlite:////var//lib/x.db?retention=": "",
		"sqlite:////var//lib/x.db":            "/var/lib/x.db",
		"amqp://user:hunter2@host/":           "",
	} {
		path, err := open.SQLiteFile(rawURL)
		require.Equal(t, want, path)
		require.Equal(t, want == "", err != nil, "%v", err)
		if err != nil {
			require.NotContains(t, err.Error(), "hunter2")
		}
	}
}

func TestPasswordsStayOutOfErrors(t *testing.T) {
	for _, rawURL := range []string{
		"amqp://user:hunter2@host/?nonsense=1",
		"amqp://user:hunter2@host:port/",
		"amqp://user:hunt%er2@host/",
		"rabbit://user:hunter2@host/",
		"rabbit://user:hunter2@host:%%/",
	} {
		_, err := open.Publisher(rawURL, open.Options{})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
		require.NotContains(t, err.Error(), "er2@")
	}
}

// FuzzURL: whatever is wrong with a URL, nothing of its password is in the error.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{"", "/", "?a=b", "?mandatory=", "#", "@", ":", "%zz", "%", "://", " ", "\x00", "é", "[", "]", ";"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, junk string) {
		const mark = "s3cret"
		for _, password := range []string{mark + junk, junk + mark, mark + junk + mark} {
			for _, before := range []string{"amqp://user:", "amqps://:", "pulsar://user:", "user:"} {
				for _, after := range []string{"@127.0.0.1:bad/x", "@127.0.0.1:1/?heartbeat=x", "@127.0.0.1:1/?x=%zz", "@127.0.0.1:1/?x"} {
					_, err := open.Subscriber(before+password+after, "queue", open.Options{})
					require.Error(t, err)
					require.NotContains(t, err.Error(), mark)
				}
			}
		}
	})
}

func TestDelimitersInPasswordsAreNamed(t *testing.T) {
	for _, delimiter := range []string{"/", "?", "#", "@"} {
		for _, scheme := range []string{"amqp", "amqps"} {
			_, err := open.Publisher(scheme+"://user:s3"+delimiter+"cret@127.0.0.1:1/x", open.Options{})
			require.ErrorContains(t, err, `"`+delimiter+`" before its last @`)
			require.NotContains(t, err.Error(), "cret")
		}
	}
}
