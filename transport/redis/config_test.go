package redis_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/transport/driver"
	"github.com/cqrsync/cqrsync/transport/redis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleNewConfig() {
	config, err := redis.NewConfig("redis://relay:secret@a/x?mandatory=maybe", "")
	fmt.Println(config.Address, err)
	config, err = redis.NewConfig("redis://relay:secret@a/3?prefix={orders}:&mandatory=false", "webhooks")
	fmt.Println(config.Address, config.Database, config.Prefix, config.Queue, config.DropUnroutable, err)
	// Output:
	// the Redis configuration: the broker URL has the database "x": want its number, 0 or more
	// URL parameter mandatory=maybe: want true or false
	// a:6379 3 {orders}: webhooks true <nil>
}

func TestAWrongURLSaysWhatIsWrongAtOnce(t *testing.T) {
	for rawURL, wants := range map[string][]string{
		"redis://":                         {"want redis://user:password@host:6379/0"},
		"redis:host":                       {"want redis://"},
		"redis://host:99999":               {"want redis://"},
		"redis://host#x":                   {"want redis://"},
		"redis://host?%zz":                 {"% written as %25"},
		"redis://host?exchange=x&window=0": {`unknown URL parameter "exchange"`, "prefix, mandatory", "window=0"},
		"redis://host/a?lease=1ms":         {`database "a"`, "lease is 1ms"},
		"redis://host?certfile=/nowhere/x": {"certfile", "rediss://"},
		"rediss://host?certfile=/nowhere":  {"certfile", "want both"},
		"redis://user@host":                {"a user without a password"},
		"redis://user:a/b@host":            {`"/" before its last @`},
	} {
		_, err := redis.NewConfig(rawURL, "")
		require.Error(t, err, rawURL)
		for _, want := range wants {
			require.ErrorContains(t, err, want, rawURL)
		}
	}
}

// Whatever is wrong with a URL, nothing of its password is shown.
func TestSecretsStayOutOfErrors(t *testing.T) {
	for _, rawURL := range []string{
		"redis://user:s3cret@host?x=y", "rediss://:s3cret@host?x=y", "redis://user:s3cr%et@host",
		"redis://user:s3cret@host:port", "redis://user:s3/cret@host", "redis://:s3cret@?",
	} {
		d, err := driver.Find(rawURL)
		require.NoError(t, err)
		_, err = d.Parse(rawURL, "", driver.Options{})
		require.Error(t, err, rawURL)
		require.NotContains(t, err.Error(), "cret", rawURL)
		require.NotContains(t, database.Redact(rawURL), "cret", rawURL)
	}
}
