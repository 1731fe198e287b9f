package kafka_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/transport/driver"
	"github.com/cqrsync/cqrsync/transport/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleNewConfig() {
	config, err := kafka.NewConfig("kafka://relay:secret@a,b:9093?mandatory=maybe", "")
	fmt.Println(config.Brokers, err)
	config, err = kafka.NewConfig("kafka://relay:secret@a,b:9093/?partitions=12&mandatory=false", "webhooks")
	fmt.Println(config.Brokers, config.Queue, config.Partitions, config.DropUnroutable, err)
	// Output:
	// [] the Kafka configuration: URL parameter mandatory=maybe: want true or false
	// [a:9092 b:9093] webhooks 12 true <nil>
}

func TestAWrongURLSaysWhatIsWrongAtOnce(t *testing.T) {
	for rawURL, wants := range map[string][]string{
		"kafka://":                         {"want kafka://user:password@host:9092"},
		"kafka:host":                       {"want kafka://"},
		"kafka://host:0":                   {"want kafka://"},
		"kafka://host:99999":               {"want kafka://"},
		"kafka://host/vhost":               {"want kafka://"},
		"kafka://a,,b":                     {"want kafka://"},
		"kafka://host#x":                   {"want kafka://"},
		"kafka://host?%zz":                 {"% written as %25"},
		"kafka://host?exchange=x&window=0": {`unknown URL parameter "exchange"`, "prefix, partitions", "window=0"},
		"kafka://host?prefix=a.b&lease=1ms&replicas=900": {`prefix "a.b"`, "lease is 1ms", "replicas is 900"},
		"kafka://host?cacertfile=/nowhere/x":             {"kafkas://"},
		"kafkas://host?certfile=/nowhere/x":              {"certfile", "want both"},
		"kafka://host?message_bytes=5":                   {"message_bytes is 5"},
		"kafka://host?sasl=plain":                        {"no user and password"},
		"kafka://u:p@host?sasl=gssapi":                   {"want plain, scram-sha-256"},
		"kafka://user@host":                              {"a user without a password"},
		"kafka://user:a/b@host":                          {`"/" before its last @`},
	} {
		_, err := kafka.NewConfig(rawURL, "")
		require.Error(t, err, rawURL)
		for _, want := range wants {
			require.ErrorContains(t, err, want, rawURL)
		}
	}
	_, err := kafka.NewConfig("kafka://host", "a.b")
	require.ErrorContains(t, err, "without dots")
}

// Whatever is wrong with a URL, nothing of its password is shown.
func TestSecretsStayOutOfErrors(t *testing.T) {
	for _, rawURL := range []string{
		"kafka://user:s3cret@host?x=y", "kafkas://:s3cret@host", "kafka://user:s3cr%et@host",
		"kafka://user:s3cret@host:port", "kafka://user:s3/cret@host", "kafka://user:s3cret@host?sasl=x",
	} {
		d, err := driver.Find(rawURL)
		require.NoError(t, err)
		_, err = d.Parse(rawURL, "", driver.Options{})
		require.Error(t, err, rawURL)
		require.NotContains(t, err.Error(), "cret", rawURL)
		require.NotContains(t, database.Redact(rawURL), "cret", rawURL)
	}
}
