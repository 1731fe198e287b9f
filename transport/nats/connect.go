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
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

// pingInterval finds a connection that is dead without saying so, together with the two pings that
// may be unanswered.
const pingInterval = 10 * time.Second

// connect returns a connection, made before ctx ends, and what cuts it.
func (c Config) connect(
	ctx context.Context, name string, options ...natsgo.Option,
) (*natsgo.Conn, *socket.Dialer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	d := socket.NewDialer(ctx, c.ConnectTimeout)
	defer context.AfterFunc(ctx, d.Cut)()
	base := []natsgo.Option{
		natsgo.Name(cmp.Or(c.Name, name)),
		natsgo.SetCustomDialer(d),
		natsgo.Timeout(c.ConnectTimeout),
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
	if errors.As(err, &answer) && answer.Code != 503 && answer.Code != 500 {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var answer *jetstream.APIError
	return errors.As(err, &answer) && answer.ErrorCode == code
}
