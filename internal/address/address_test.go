package address_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/address"
)

func TestRedact(t *testing.T) {
	for rawURL, want := range map[string]string{
		"postgres://u:s3cret@h/x":                    "postgres://u:xxxxx@h/x",
		"postgres://u:s%40c%2Fret@a:1,b:2/x":         "postgres://u:xxxxx@a:1,b:2/x",
		"postgres://:s3cret@[::1]:5432/x":            "postgres://:xxxxx@[::1]:5432/x",
		"postgres://h/x?password=s3cret":             "postgres://h/x?xxxxx",
		"postgres://h/x?sslmode=disable":             "postgres://h/x?sslmode=disable",
		"postgres://u@%2Frun%2Fpg/x":                 "postgres://u@%2Frun%2Fpg/x",
		"postgres:///x?host=/run/pg":                 "postgres:///x?host=/run/pg",
		"postgres://u:s3:@c/ret@h:bad/x":             "postgres://(unreadable)",
		"postgres://u:s3cret":                        "postgres://(unreadable)",
		"postgres://u:s3cret/x":                      "postgres://(unreadable)",
		"postgres://u:s3%zz@h/x":                     "postgres://(unreadable)",
		"postgres://u:s3 cret@h/x":                   "postgres://(unreadable)",
		"postgres://u@h/x#s3cret":                    "postgres://(unreadable)",
		"postgres://u:pw@h:s3cret/x":                 "postgres://(unreadable)",
		"u:s3cret@postgres://h/x":                    "(not a URL)",
		"host=h password=s3cret":                     "(not a URL)",
		"sqlite://orders.db":                         "sqlite://orders.db",
		"sqlite:///a/b@c#d.db?mandatory=true":        "sqlite:///a/b@c#d.db?mandatory=true",
		"amqp://u:a?b#c@h/v?exchange=x":              "amqp://(unreadable)",
		"amqp://guest:guest@localhost:1/v":           "amqp://guest:xxxxx@localhost:1/v",
		"amqp://guest:guest@localhost/v?mandatory=1": "amqp://guest:xxxxx@localhost/v?mandatory=1",
	} {
		require.Equal(t, want, address.Redact(rawURL), rawURL)
	}
}

func TestRequireEscaped(t *testing.T) {
	for rawURL, want := range map[string]string{
		"postgres://u:a/b@h/x":    `a "/" before its last @`,
		"amqp://u:a?b@h/x":        `a "?" before its last @`,
		"mysql://u:a#b@h/x":       `a "#" before its last @`,
		"amqps://u:a@b@h/x":       `a "@" before its last @`,
		"amqps://a@b:u@h/x":       `a "@" before its last @`,
		"postgres://h/x?a=b@c":    `a "/" before its last @`,
		"postgres://u:a%2Fb@h/x":  "",
		"postgres://u:a:b!$&@h/x": "",
		"sqlite://dir/a@b.db":     "",
		"memory:x":                "",
		"":                        "",
	} {
		err := address.RequireEscaped(rawURL)
		if want == "" {
			require.NoError(t, err, rawURL)
		} else {
			require.ErrorContains(t, err, want, rawURL)
		}
	}
}

// FuzzRedact: a password is not shown, wherever it is put, and however it is written.
func FuzzRedact(f *testing.F) {
	for _, seed := range []string{"s3cret", "a/b", "a?b=c", "a#b", "a@b", "a:b", "a%zz", "a://b", "a b", "é\x00", "%", "a,b", "[a]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, password string) {
		const mark = "s3cret" // in the middle, so that no piece of it passes for something else
		for _, password := range []string{mark + password, password + mark, password + mark + password} {
			for _, before := range []string{"postgres://user:", "amqp://:", "mysql://user:x", "user:", "user:x://"} {
				for _, after := range []string{"@host:5432/name?sslmode=disable", "@host", "@host:bad/x", "@", ""} {
					if after == "" && strings.Contains(password, "@") {
						continue // what follows the @ is a host
					}
					shown := address.Redact(before + password + after)
					require.NotContains(t, shown, mark)
				}
			}
			escaped := url.UserPassword("user", password).String()
			require.NoError(t, address.RequireEscaped("amqp://"+escaped+"@host/"))
			require.Equal(t, "amqp://user:xxxxx@host/", address.Redact("amqp://"+escaped+"@host/"))
		}
	})
}
