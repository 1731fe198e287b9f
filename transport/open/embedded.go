package open

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/driver"
	"github.com/cqrsync/cqrsync/transport/memory"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

func parseSQLite(rawURL, queue string, o Options) (driver.Broker, error) {
	location, found := strings.CutPrefix(rawURL, "sqlite://")
	path, query, _ := strings.Cut(location, "?")
	if !found || path == "" {
		return driver.Broker{}, errors.New("the file is missing: want sqlite://FILE")
	}
	config := sqlite.Config{Path: filepath.Clean(path), Queue: queue, Logger: o.Logger}
	if strings.HasSuffix(path, "/") {
		return driver.Broker{}, fmt.Errorf("the path %q is that of a folder: want sqlite://FILE", path)
	}
	if err := readOptions(&config, query); err != nil {
		return driver.Broker{}, err
	}
	config.DropUnroutable = config.DropUnroutable && !o.RequireQueue
	return driver.Broker{
		Publisher: func() (transport.BatchPublisher, error) { return sqlite.NewPublisher(config) },
		Subscriber: func() (transport.WindowSubscriber, error) {
			return sqlite.NewSubscriber(config)
		},
		Inbox: func() (transport.WindowSubscriber, error) {
			config := config
			config.Queue, config.Inbox = "", true
			return sqlite.NewSubscriber(config)
		},
	}, nil
}

// SQLiteFile returns the path of the file that a sqlite:// broker URL names: for what is done to
// the file itself.
func SQLiteFile(rawURL string) (string, error) {
	if !strings.HasPrefix(rawURL, "sqlite:") {
		return "", fmt.Errorf("broker URL %q: want sqlite://FILE", database.Redact(rawURL))
	}
	if _, err := parseSQLite(rawURL, "", Options{}); err != nil {
		return "", explain(rawURL, err)
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(rawURL, "sqlite://"), "?")
	return filepath.Clean(path), nil
}

func readOptions(config *sqlite.Config, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the options cannot be read: want option=value, joined by &, with % " +
			"written as %25")
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(name)
		switch name {
		case "retention":
			retention, err := time.ParseDuration(value)
			if err != nil || retention < 0 {
				errs = append(errs,
					fmt.Errorf("retention is %q: want a duration as in 36h, or 0 to drop nothing",
						value))
			}
			config.Retention = retention
		case "mandatory":
			mandatory, err := strconv.ParseBool(value)
			if err != nil {
				errs = append(errs, fmt.Errorf("mandatory is %q: want true or false", value))
			}
			config.DropUnroutable = !mandatory
		default:
			errs = append(errs, fmt.Errorf("unknown option %q: want retention or mandatory; "+
				"a ? begins the options, and cannot stand in the file's name", name))
		}
	}
	return errors.Join(errs...)
}

// brokers are those inside this process, by name, so that both ends of a URL meet.
var brokers = struct {
	sync.Mutex
	named map[string]*memory.Broker
}{named: map[string]*memory.Broker{}}

func parseMemory(rawURL, queue string, o Options) (driver.Broker, error) {
	name := strings.TrimPrefix(rawURL, "memory:")
	if strings.ContainsAny(name, "/?") {
		return driver.Broker{}, errors.New("want memory: or memory:NAME, without slashes and options")
	}
	brokers.Lock()
	defer brokers.Unlock()
	b := brokers.named[name]
	if b == nil {
		b = memory.New()
		brokers.named[name] = b
	}
	return driver.Broker{
		Publisher: func() (transport.BatchPublisher, error) {
			p := b.Publisher()
			p.RequireQueue = o.RequireQueue
			return p, nil
		},
		Subscriber: func() (transport.WindowSubscriber, error) { return b.Subscriber(queue), nil },
		Inbox:      func() (transport.WindowSubscriber, error) { return b.Inbox(), nil },
	}, nil
}
