// Package driver is where the packages of brokers make themselves known by the scheme of their
// URLs, as those of databases do with database/sql: a program imports the package of its broker for
// that alone, and links no other.
//
//	import _ "github.com/cqrsync/cqrsync/transport/nats"
//
// Neighbours: transport/open finds drivers here, and brings RabbitMQ's, SQLite's and the one inside
// the process along.
package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cqrsync/cqrsync/transport"
)

// Options are what a URL cannot say. The zero value is ready.
type Options struct {
	// Logger receives what no caller can be told, such as trouble that is being retried. Default:
	// slog.Default().
	Logger *slog.Logger
	// RequireQueue makes a publisher refuse a message for a topic that no queue is bound to, with
	// transport.ErrUnroutable, whatever the URL's mandatory says. Default: as the URL says, and
	// memory drops it. Publishers only.
	RequireQueue bool
}

// Broker is what a URL can be made into. Nothing connects when it is made, and nothing when these
// are called.
type Broker struct {
	Publisher func() (transport.BatchPublisher, error)
	// Subscriber is one of the queue that was given to Parse.
	Subscriber func() (transport.WindowSubscriber, error)
	// Inbox is a subscriber whose topics have an inbox each.
	Inbox func() (transport.WindowSubscriber, error)
}

// Driver makes brokers of the URLs of one scheme.
type Driver struct {
	// Form is what a URL of the scheme looks like, as an error shows it: "nats://…".
	Form string
	// Parse reads a URL, whose password is percent-encoded, and returns all that is wrong with it at
	// once, never a part of the password. The queue is that of the subscriber; a publisher has none.
	Parse func(rawURL, queue string, o Options) (Broker, error)
}

var registered = struct {
	sync.RWMutex
	drivers map[string]Driver
}{drivers: map[string]Driver{}}

// Register makes a driver known by a scheme, in lower case. It panics if the scheme has one
// already, or the driver is not whole: it is called by a package's init.
func Register(scheme string, d Driver) {
	if scheme == "" || d.Form == "" || d.Parse == nil {
		panic(fmt.Sprintf("transport/driver: the driver of %q is not whole", scheme))
	}
	registered.Lock()
	defer registered.Unlock()
	if _, twice := registered.drivers[scheme]; twice {
		panic(fmt.Sprintf("transport/driver: the scheme %q has two drivers", scheme))
	}
	registered.drivers[scheme] = d
}

// unlinked are the brokers with a module of their own, and what a program imports for each.
var unlinked = map[string]string{
	"kafka":  "github.com/cqrsync/cqrsync/transport/kafka",
	"kafkas": "github.com/cqrsync/cqrsync/transport/kafka",
	"nats":   "github.com/cqrsync/cqrsync/transport/nats",
	"redis":  "github.com/cqrsync/cqrsync/transport/redis",
	"rediss": "github.com/cqrsync/cqrsync/transport/redis",
}

// Find returns the driver of a URL's scheme. The error names the schemes that there are, or the
// import that is missing.
func Find(rawURL string) (Driver, error) {
	scheme, _, _ := strings.Cut(rawURL, ":")
	registered.RLock()
	defer registered.RUnlock()
	if d, found := registered.drivers[scheme]; found {
		return d, nil
	}
	if path, known := unlinked[scheme]; known {
		return Driver{}, fmt.Errorf("this program is built without the broker %s: add "+
			"import _ %q to it", scheme, path)
	}
	return Driver{}, errors.New("unknown scheme: want " + strings.Join(forms(), ", "))
}

// forms are those of all drivers, in the order of their schemes. The caller holds the lock.
func forms() []string {
	var all []string
	for _, scheme := range slices.Sorted(maps.Keys(registered.drivers)) {
		all = append(all, registered.drivers[scheme].Form)
	}
	return all
}
