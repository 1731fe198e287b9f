package amqp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport/internal/bounded"
)

// closeTimeout bounds a polite goodbye to the broker.
const closeTimeout = 2 * time.Second

// connection is one connection to the broker that can be cut at any moment. That is the only way
// out of amqp091's calls: they take no context, and a write to a broker that does not read blocks
// for ever.
type connection struct {
	*amqp091.Connection
	socket   *socket
	blockade atomic.Pointer[blockade] // nil while the broker lets publishers publish
}

// blockade is the time in which a broker short of memory or disk does not read from publishers.
type blockade struct {
	reason string
	over   chan struct{} // closed when it ends, or the connection does
}

// cut drops the connection without a word; every call on it returns with an error.
func (c *connection) cut() { c.socket.cut() }

// close says goodbye, but not for long.
func (c *connection) close() {
	timer := time.AfterFunc(closeTimeout, c.cut)
	defer timer.Stop()
	c.socket.linger(-1)
	_ = c.Close() // the connection is gone either way
	c.cut()
}

// limit cuts the connection when ctx ends or the broker takes too long, unless released before. The
// context it returns says which.
func (c *connection) limit(
	ctx context.Context, timeout time.Duration,
) (limited context.Context, release func()) {
	limited, cancel := bounded.Timeout(ctx, timeout, errTimeout)
	stop := context.AfterFunc(limited, c.cut)
	return limited, func() { stop(); cancel() }
}

var errTimeout = errors.New("the broker took too long (connection_timeout in the URL)")

// because prefers the end of ctx as the reason: what failed after it, failed because the connection
// was cut.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// watchBlockade keeps blockade current until the connection ends.
func (c *connection) watchBlockade(notices <-chan amqp091.Blocking) {
	lift := func() {
		if b := c.blockade.Swap(nil); b != nil {
			close(b.over)
		}
	}
	defer lift()
	for notice := range notices {
		lift()
		if notice.Active {
			c.blockade.Store(&blockade{reason: notice.Reason, over: make(chan struct{})})
		}
	}
}

// dialer makes connections, with a pause between attempts that fail, however many callers want one.
type dialer struct {
	config Config
	name   string   // of the connections, as the broker's operator sees them
	uris   []string // of the cluster's nodes

	turn  chan struct{} // holds a token while somebody dials; guards what follows
	pause *backoff.ExponentialBackOff
	next  time.Time // not before
	at    int       // the node to begin with: it answered last
}

// newDialer begins at any node, so that the clients of a cluster spread over it.
func newDialer(config Config, name string) *dialer {
	uris := config.uris()
	return &dialer{config: config, name: name, uris: uris, turn: make(chan struct{}, 1),
		pause: newBackOff(config), at: rand.IntN(len(uris))}
}

func newBackOff(config Config) *backoff.ExponentialBackOff {
	r := config.Connection.Reconnect
	return &backoff.ExponentialBackOff{
		InitialInterval:     r.BackoffInitialInterval,
		RandomizationFactor: r.BackoffRandomizationFactor,
		Multiplier:          r.BackoffMultiplier,
		MaxInterval:         r.BackoffMaxInterval,
	}
}

// dial tries each node once, after the pause that an earlier failure earned.
func (d *dialer) dial(ctx context.Context) (*connection, error) {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := wait(ctx, time.Until(d.next)); err != nil {
		return nil, err
	}
	ctx, cancel := bounded.Timeout(ctx, d.config.connectTimeout(), errTimeout)
	defer cancel()
	conn, err := d.any(ctx)
	if err != nil {
		d.next = time.Now().Add(d.pause.NextBackOff())
		return nil, fmt.Errorf("connect to RabbitMQ: %w", err)
	}
	d.pause.Reset()
	return conn, nil
}

// any connects to the first node that answers. One that accepts a connection and says nothing
// leaves the others their part of the time.
func (d *dialer) any(ctx context.Context) (*connection, error) {
	var errs []error
	for i := range d.uris {
		at := (d.at + i) % len(d.uris)
		once, cancel := ctx, context.CancelFunc(func() {})
		if deadline, has := ctx.Deadline(); has && i < len(d.uris)-1 {
			part := time.Until(deadline) / time.Duration(len(d.uris)-i)
			once, cancel = bounded.Timeout(ctx, part, errTimeout)
		}
		conn, err := d.open(once, d.uris[at])
		cancel()
		if err == nil {
			d.at = at
			return conn, nil
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (d *dialer) open(ctx context.Context, uri string) (*connection, error) {
	conn := &connection{}
	stop := func() bool { return true }
	config := d.settings()
	base := config.Dial
	if base == nil {
		base = func(network, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}
	config.Dial = func(network, address string) (net.Conn, error) {
		raw, err := base(network, address)
		if err != nil {
			return nil, err
		}
		conn.socket = &socket{Conn: raw, timeout: d.config.ConfirmTimeout}
		conn.socket.linger(0) // amqp091 closes it, too, when no heartbeat comes
		stop = context.AfterFunc(ctx, conn.cut)
		return conn.socket, nil
	}
	var err error
	conn.Connection, err = amqp091.DialConfig(uri, config)
	stop()
	if err = because(ctx, err); err != nil {
		if conn.socket != nil {
			conn.cut()
		}
		return nil, err
	}
	go conn.watchBlockade(conn.NotifyBlocked(make(chan amqp091.Blocking, 1)))
	return conn, nil
}

// settings are the user's, copied where amqp091 would write into them.
func (d *dialer) settings() amqp091.Config {
	var config amqp091.Config
	if own := d.config.Connection.AmqpConfig; own != nil {
		config = *own
	}
	if own := d.config.Connection.TLSConfig; own != nil {
		config.TLSClientConfig = own
	}
	config.TLSClientConfig = config.TLSClientConfig.Clone()
	config.Properties = maps.Clone(config.Properties)
	if config.Properties == nil {
		config.Properties = amqp091.NewConnectionProperties()
		config.Properties.SetClientConnectionName(d.name)
	}
	return config
}

// wait returns after d, or early with the reason why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
