package webhooks

import (
	"net"
	"net/http"
	"time"

	"github.com/cqrsync/cqrsync/replica"
)

// Config says how deliveries are posted, and where. The zero value is ready to use.
type Config struct {
	// Targets are where subscribers may be. Default: public addresses, ports 80 and 443.
	Targets Targets
	// Timeout ends a post that is not answered. Default: 5 s.
	Timeout time.Duration
	// MaxAttempts is how often a delivery is tried before it counts as failed. Default: 10.
	MaxAttempts int
	// Backoff is the time from the beginning of the first attempt, if it fails, to that of the
	// second; it doubles with the next ten. Default: 5 s, so a subscriber may be away for more than
	// half an hour.
	Backoff time.Duration
	// Poll is how long to wait before looking for due deliveries again. Default: 200 ms.
	Poll time.Duration
	// Keep is how long the history is kept. Default: 30 days.
	Keep time.Duration
	// MaxSubscriptions bounds what one change of an order may cause. Default: 1000.
	MaxSubscriptions int
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Tracer sees what becomes of the messages. Default: none.
	Tracer replica.Tracer
	// Transport wraps what posts deliveries. Each has the header traceparent of the change that it
	// tells of. Default: nothing around it.
	Transport func(http.RoundTripper) http.RoundTripper

	resolver *net.Resolver // a test's own; nil is the system's
}

const maxDoublings = 10

func (c Config) withDefaults() Config {
	if len(c.Targets.Ports) == 0 {
		c.Targets.Ports = []int{80, 443}
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.MaxAttempts <= 0 {
		c.MaxAttempts = 10
	}
	if c.Backoff <= 0 {
		c.Backoff = 5 * time.Second
	}
	if c.Poll <= 0 {
		c.Poll = 200 * time.Millisecond
	}
	if c.Keep <= 0 {
		c.Keep = 30 * 24 * time.Hour
	}
	if c.MaxSubscriptions <= 0 {
		c.MaxSubscriptions = 1000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Transport == nil {
		c.Transport = func(inner http.RoundTripper) http.RoundTripper { return inner }
	}
	return c
}

// now is the clock's time in the resolution that databases keep.
func (c Config) now() time.Time { return c.Now().UTC().Truncate(time.Microsecond) }
