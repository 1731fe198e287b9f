package nats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/transport/driver"
	"github.com/cqrsync/cqrsync/transport/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleNewConfig() {
	config, err := nats.NewConfig("nats://relay:secret@a:4222,b:4222?replicas=3&mandatory=maybe", "")
	fmt.Println(config.Servers, err)
	config, err = nats.NewConfig("nats://relay:secret@a:4222,b?replicas=3&mandatory=false", "webhooks")
	fmt.Println(config.Servers, config.Queue, config.Replicas, config.DropUnroutable, err)
	// Output:
	// [] NATS configuration: URL parameter mandatory=maybe: want true or false
	// [nats://a:4222 nats://b] webhooks 3 true <nil>
}

func TestAWrongURLSaysWhatIsWrongAtOnce(t *testing.T) {
	for rawURL, wants := range map[string][]string{
		"nats://":                         {"want nats://user:password@host:4222"},
		"nats:host":                       {"want nats://"},
		"nats://host:0":                   {"want nats://"},
		"nats://host:99999":               {"want nats://"},
		"nats://host/vhost":               {"want nats://"},
		"nats://a,,b":                     {"want nats://"},
		"nats://host#x":                   {"want nats://"},
		"nats://host?%zz":                 {"% written as %25"},
		"nats://host?exchange=x&window=0": {`unknown URL parameter "exchange"`, "stream, replicas", "window=0"},
		"nats://host?stream=a.b&ack_wait=1ms&replicas=9": {`stream "a.b"`, "ack_wait is 1ms", "replicas is 9"},
		"nats://host?certfile=/nowhere/x":                {"certfile", "want both"},
		"nats://host?nkey=/nowhere/x":                    {"file with a user's seed"},
		"nats://host?max_bytes=-1&confirm_timeout=soon":  {"max_bytes=-1", "confirm_timeout=soon"},
		"nats://user:a/b@host":                           {`"/" before its last @`},
	} {
		_, err := nats.NewConfig(rawURL, "")
		require.Error(t, err, rawURL)
		for _, want := range wants {
			require.ErrorContains(t, err, want, rawURL)
		}
	}
	for _, queue := range []string{".", "a.", ".a", "a..b", strings.Repeat("x", 201), strings.Repeat("ü", 60)} {
		_, err := nats.NewConfig("nats://host", queue)
		require.ErrorContains(t, err, "queue", queue)
	}
}

// Whatever is wrong with a URL, nothing of its password, or its token, is shown.
func TestSecretsStayOutOfErrors(t *testing.T) {
	seed := filepath.Join(t.TempDir(), "seed")
	require.NoError(t, os.WriteFile(seed, []byte("SUs3cret"), 0o600))
	for _, rawURL := range []string{
		"nats://user:s3cret@host?x=y", "nats://s3cret@host?x=y", "nats://user:s3cr%et@host",
		"nats://user:s3cret@host:port", "nats://user:s3/cret@host", "nats://:s3cret@?",
		"nats://host?nkey=" + seed,
	} {
		d, err := driver.Find(rawURL)
		require.NoError(t, err)
		_, err = d.Parse(rawURL, "", driver.Options{})
		require.Error(t, err, rawURL)
		require.NotContains(t, err.Error(), "cret", rawURL)
		require.NotContains(t, database.Redact(rawURL), "cret", rawURL)
	}
}
