package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

// client returns a client; d makes its connections, if it is not nil.
func (c Config) client(name string, d *socket.Dialer, further ...kgo.Opt) (*kgo.Client, error) {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&net.Dialer{Timeout: c.ConnectTimeout}).DialContext(ctx, network, address)
	}
	if d != nil {
		dial = func(_ context.Context, network, address string) (net.Conn, error) {
			return d.Dial(network, address)
		}
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(cmp.Or(c.Name, name)),
		kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil || c.TLS == nil {
				return conn, err
			}
			return c.secure(ctx, conn, address)
		}),
		kgo.MetadataMinAge(250 * time.Millisecond), // topics are made while others are written to
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
		kgo.RequestTimeoutOverhead(c.ConnectTimeout),
		kgo.DisableClientMetrics(),
	}
	if c.SASL != nil {
		options = append(options, kgo.SASL(c.SASL))
	}
	client, err := kgo.NewClient(append(options, further...)...)
	if err != nil {
		return nil, fmt.Errorf("the Kafka configuration: %w", err)
	}
	return client, nil
}

func (c Config) secure(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	config := c.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	over := tls.Client(conn, config)
	ctx, cancel := bounded.Timeout(ctx, c.ConnectTimeout, nil)
	defer cancel()
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return over, nil
}

// explain returns an error of the brokers', or of the way to them. It is transport.ErrUnavailable
// where trying again may help.
func explain(ctx context.Context, err error) error {
	var answer *kerr.Error
	answered := errors.As(err, &answer)
	switch {
	case err == nil || errors.Is(err, transport.ErrUnavailable):
		return err
	case !answered && ctx.Err() != nil:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, errors.Join(context.Cause(ctx), err))
	case !answered || kerr.IsRetriable(err) || temporary[answer.Code]:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	case denied[answer.Code]:
		return fmt.Errorf("%w: %w", transport.ErrDestination, err)
	default:
		return err
	}
}

// passing says that brokers answered, and will say something else in a moment: those that have just
// started know no coordinator of a group yet, and a topic that was just made has no leader.
func passing(err error) bool {
	var answer *kerr.Error
	return errors.As(err, &answer) && errors.Is(err, transport.ErrUnavailable) &&
		kerr.IsRetriable(answer)
}

// temporary are errors that end although the client does not try again because of them. Of a
// refused login the operator has to hear, but it says nothing about messages.
var temporary = codes(
	kerr.SaslAuthenticationFailed, kerr.ClusterAuthorizationFailed, kerr.UnknownMemberID,
	kerr.IllegalGeneration, kerr.UnknownTopicOrPartition, kerr.InvalidReplicationFactor,
)

// denied are errors that last until an operator mends what they are about.
var denied = codes(
	kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed,
	kerr.TransactionalIDAuthorizationFailed,
)

func codes(errs ...*kerr.Error) map[int16]bool {
	all := map[int16]bool{}
	for _, err := range errs {
		all[err.Code] = true
	}
	return all
}
