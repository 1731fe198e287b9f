package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/store"
)

// Config says who a replica is and how patient. Only Queue is required.
type Config struct {
	// Queue is the name of this replica service. All its processes share it, other services must not: a message that
	// is meant for another queue is skipped. Required, and the name the transport's subscriber was opened with.
	Queue string
	// Schema qualifies the library's tables. Empty means the connection's search path.
	Schema string
	// TablePrefix stands before the names of the library's tables. Empty by default.
	TablePrefix string

	// Tries is how often a message is tried before it goes back to the broker, which delivers it again. A message
	// that no retry can cure is parked at the first. Default 5.
	Tries int
	// RetryMin is the pause after the first failure, before random spread; each further one is twice as long.
	// The consumer waits meanwhile, which is what paces redelivery on brokers that know no delay. Default 100ms.
	RetryMin time.Duration
	// RetryMax bounds that pause, and the one between attempts to subscribe. Default 5s.
	RetryMax time.Duration
	// HandlerTimeout bounds one try: the transaction with the handler in it. A try is not cut short when the consumer
	// is stopped, so this is also how long a clean stop may take. Default 30s.
	HandlerTimeout time.Duration

	// Logger receives what no caller can be told: parked messages, lost subscriptions. Default slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Tries = cmp.Or(c.Tries, 5)
	c.RetryMin = cmp.Or(c.RetryMin, 100*time.Millisecond)
	c.RetryMax = cmp.Or(c.RetryMax, 5*time.Second)
	c.HandlerTimeout = cmp.Or(c.HandlerTimeout, 30*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// validate checks a Config that has its defaults, all fields at once.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is %v: %s", field, value, want))
		}
	}
	check(c.Queue != "", "Queue", `""`, "name this replica service, for example webhooks")
	check(c.Tries >= 1, "Tries", c.Tries, "want at least 1, or 0 for 5")
	check(c.RetryMin > 0, "RetryMin", c.RetryMin, "want a positive time, or 0 for 100ms")
	check(c.RetryMax >= c.RetryMin, "RetryMax", c.RetryMax, fmt.Sprintf("want at least RetryMin (%s), or 0 for 5s", c.RetryMin))
	check(c.HandlerTimeout > 0, "HandlerTimeout", c.HandlerTimeout, "want a positive time, or 0 for 30s")
	return errors.Join(errs...)
}

// Replica applies messages to one database. Register and Handle first, then Run; from then on it is safe for
// concurrent use.
type Replica struct {
	db     *bun.DB
	store  *store.Store
	config Config
	log    *slog.Logger

	mu      sync.Mutex // guards the three below until the first consumer starts; then they are only read
	models  map[string]*binding
	errs    []error
	started bool

	running    chan struct{}
	nowRunning sync.Once // closes running
	counts     counters
}

// New checks the configuration, all of it at once. It does not talk to the database.
func New(db *bun.DB, config Config) (*Replica, error) {
	config = config.withDefaults()
	s, err := store.New(db, store.Names{Schema: config.Schema, Prefix: config.TablePrefix})
	if err := errors.Join(config.validate(), err); err != nil {
		return nil, fmt.Errorf("replica configuration: %w", err)
	}
	return &Replica{
		db:      db,
		store:   s,
		config:  config,
		log:     config.Logger.With("queue", config.Queue),
		models:  make(map[string]*binding),
		running: make(chan struct{}),
	}, nil
}

// Migrate creates or upgrades the replica's tables: its ledger and its dead letters. The tables that models are
// mirrored into are the service's own.
func (r *Replica) Migrate(ctx context.Context) error {
	_, err := r.store.Migrate(ctx, store.Replica)
	return err
}

// start ends the time of registration and returns the models, or every registration error there was.
func (r *Replica) start() (map[string]*binding, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	if len(r.models) == 0 {
		return nil, errors.New("no model is registered: call replica.Register or replica.Handle first")
	}
	r.started = true
	return r.models, nil
}
