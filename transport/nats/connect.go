package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

const (
	// pingInterval finds a connection that is dead without saying so, together with the two pings
	// that may be unanswered: a server that is cut off from the others, say.
	pingInterval = 3 * time.Second
	// leastDial is what each of several servers is given at least to take a connection.
	leastDial = time.Second
)

// dialTimeout leaves time for the other servers where one accepts a connection and says nothing,
// for which the client waits twice as long.
func (c Config) dialTimeout() time.Duration {
	n := time.Duration(len(c.Servers))
	if n == 1 {
		return c.ConnectTimeout
	}
	return min(c.ConnectTimeout, max(leastDial, c.ConnectTimeout/(2*n)))
}

// connect returns a connection, made before ctx ends, and what cuts it.
func (c Config) connect(
	ctx context.Context, name string, options ...natsgo.Option,
) (*natsgo.Conn, *socket.Dialer, error) {
	ctx, cancel := bounded.Timeout(ctx, c.ConnectTimeout, nil)
	defer cancel()
	d := socket.NewDialer(ctx, c.dialTimeout(), c.ConnectTimeout)
	defer context.AfterFunc(ctx, d.Cut)()
	base := []natsgo.Option{
		natsgo.Name(cmp.Or(c.Name, name)),
		natsgo.SetCustomDialer(d),
		natsgo.Timeout(c.dialTimeout()),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(2),
	}
	all := slices.Concat(base, c.Connect, options)
	nc, err := natsgo.Connect(strings.Join(c.Servers, ","), all...)
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return nil, nil, fmt.Errorf("%w: connect: %w", transport.ErrUnavailable, err)
	}
	if err := checkVersion(nc.ConnectedServerVersion()); err != nil {
		nc.Close()
		return nil, nil, err
	}
	d.Free()
	return nc, d, nil
}

// checkVersion refuses servers that know no expiration of single messages.
func checkVersion(version string) error {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d.", &major, &minor); err == nil &&
		(major < 2 || major == 2 && minor < 11) {
		return fmt.Errorf("the NATS server has version %s: want 2.11 or later", version)
	}
	return nil
}

// explain returns an error of the server's, which is transport.ErrUnavailable where trying again
// may help.
func explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, transport.ErrUnavailable) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, errors.Join(context.Cause(ctx), err))
	}
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("%w: start the server with JetStream (-js), and enable it for the account",
			err)
	}
	var answer *jetstream.APIError
	if errors.As(err, &answer) && answer.Code != 503 && answer.Code != 500 &&
		answer.ErrorCode != jsNoPeers {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

// jsNoPeers is the code by which a cluster says that it has too few servers at the moment.
const jsNoPeers jetstream.ErrorCode = 10005

func isCode(err error, code jetstream.ErrorCode) bool {
	var answer *jetstream.APIError
	return errors.As(err, &answer) && answer.ErrorCode == code
}
