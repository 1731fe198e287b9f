package open

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

func parseSQLite(rawURL, queue string, o Options) (broker, error) {
	location, found := strings.CutPrefix(rawURL, "sqlite://")
	path, query, _ := strings.Cut(location, "?")
	if !found || path == "" {
		return broker{}, errors.New("the file is missing: want sqlite://FILE")
	}
	config := sqlite.Config{Path: path, Queue: queue, Logger: o.Logger}
	if err := readOptions(&config, query); err != nil {
		return broker{}, err
	}
	return broker{
		publisher:  func() (transport.BatchPublisher, error) { return sqlite.NewPublisher(config) },
		subscriber: func() (transport.WindowSubscriber, error) { return sqlite.NewSubscriber(config) },
	}, nil
}

func readOptions(config *sqlite.Config, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the options cannot be read: want option=value, joined by &, with % written as %25")
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(name)
		switch name {
		case "retention":
			retention, err := time.ParseDuration(value)
			if err != nil || retention < 0 {
				errs = append(errs, fmt.Errorf("retention is %q: want a duration as in 36h, or 0 for ever", value))
			}
			if config.Retention = retention; retention == 0 {
				config.Retention = sqlite.Forever
			}
		case "mandatory":
			if config.Mandatory, err = strconv.ParseBool(value); err != nil {
				errs = append(errs, fmt.Errorf("mandatory is %q: want true or false", value))
			}
		default:
			errs = append(errs, fmt.Errorf("unknown option %q: want retention or mandatory", name))
		}
	}
	return errors.Join(errs...)
}

// brokers are those inside this process, by name, so that both ends of a URL meet.
var brokers = struct {
	sync.Mutex
	named map[string]*memory.Broker
}{named: map[string]*memory.Broker{}}

func parseMemory(rawURL, queue string) (broker, error) {
	name := strings.TrimPrefix(rawURL, "memory:")
	if strings.ContainsAny(name, "/?") {
		return broker{}, errors.New("want memory: or memory:NAME, without slashes and options")
	}
	brokers.Lock()
	defer brokers.Unlock()
	b := brokers.named[name]
	if b == nil {
		b = memory.New()
		brokers.named[name] = b
	}
	return broker{
		publisher:  func() (transport.BatchPublisher, error) { return b.Publisher(), nil },
		subscriber: func() (transport.WindowSubscriber, error) { return b.Subscriber(queue), nil },
	}, nil
}
