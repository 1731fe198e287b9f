package redis

import (
	"context"
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

// session is a connection of a publisher, on which one call publishes at a time.
type session struct {
	config Config
	client *goredis.Client
	dialer *socket.Dialer
}

// parcel is a message on its way, as the script takes it, and its place in the batch.
type parcel struct {
	index     int
	arguments []any
	bytes     int
}

const (
	// mostMetadata is well below what a script can hand on at once.
	mostMetadata = 1000
	// largestPayload is the server's limit (proto-max-bulk-len), where nobody lowered it.
	largestPayload = 512 << 20
	// mostTogether messages go in one call of the script, and no more of them than mostBytes: so long
	// the server does nothing else.
	mostTogether = 100
	mostBytes    = 256 << 10
)

// head are the script's arguments before those of messages.
func (c Config) head() []any {
	return []any{c.Prefix, inbox.TTL.Milliseconds(), inbox.Most, inbox.Expires.Milliseconds()}
}

// arguments are those that the script that publishes has of a message.
func (c Config) arguments(topic string, msg *message.Message) ([]any, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	if len(msg.Metadata) > mostMetadata || len(msg.Payload) > largestPayload {
		return nil, fmt.Errorf("it has %d metadata and %d bytes: want at most %d, and %d bytes",
			len(msg.Metadata), len(msg.Payload), mostMetadata, largestPayload)
	}
	fields, ttl, limited, err := fields(topic, msg)
	if err != nil {
		return nil, err
	}
	var expires any = ""
	if limited {
		expires = ttl.Milliseconds()
	}
	return append([]any{topic, expires, len(fields)}, fields...), nil
}

// openSession connects, and looks what server that is.
func openSession(ctx context.Context, config Config) (s *session, warning string, err error) {
	dial, cancel := bounded.Timeout(ctx, config.ConnectTimeout, nil)
	defer cancel()
	d := socket.NewDialer(dial, config.ConnectTimeout, config.ConnectTimeout)
	defer context.AfterFunc(dial, d.Cut)()
	client := config.client("cqrsync-publisher", d)
	s = &session{config: config, client: client, dialer: d}
	if warning, err = check(dial, client); err == nil {
		err = explain(dial, publishScript.Load(dial, client).Err())
	}
	if err != nil {
		s.Cut()
		return nil, "", fmt.Errorf("connect: %w", err)
	}
	d.Free() // a connection that the server closed meanwhile is made again
	return s, warning, nil
}

// Cut ends the session without sending anything more.
func (s *session) Cut() {
	s.dialer.Cut()
	_ = s.client.Close() // it is cut already
}

// Close ends a session that has nothing under way.
func (s *session) Close() { s.Cut() }

// Closed implements pool.Session: the client connects again by itself.
func (s *session) Closed() bool { return false }

// send publishes messages, a window of them at a time, and tells settle how many queues took each.
// The error says why of some nothing is known.
func (s *session) send(
	ctx context.Context, parcels []parcel, settle func(q parcel, taken int64, err error),
) error {
	s.dialer.Permit(func() error { return transport.Ended(ctx) })
	defer s.dialer.Permit(nil)
	for window := range slices.Chunk(parcels, s.config.Window) {
		if err := transport.Ended(ctx); err != nil {
			return err
		}
		if err := s.exchange(ctx, window, settle); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) exchange(
	ctx context.Context, parcels []parcel, settle func(q parcel, taken int64, err error),
) error {
	limited, cancel := bounded.Timeout(ctx, s.config.ConfirmTimeout, nil)
	defer cancel()
	pipe := s.client.Pipeline()
	calls := together(parcels)
	answers := make([]*goredis.Cmd, len(calls))
	for i, call := range calls {
		arguments := s.config.head()
		for _, q := range call {
			arguments = append(arguments, q.arguments...)
		}
		answers[i] = publishScript.EvalSha(limited, pipe, nil, arguments...)
	}
	_, _ = pipe.Exec(limited) // the first error of all; each has its own
	for i, call := range calls {
		results, err := resultsOf(answers[i], len(call))
		if lost(err) {
			// nothing behind it would arrive in order
			return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
		}
		for j, q := range call {
			taken, err := results.of(j, err)
			if lost(err) {
				return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
			}
			if err != nil {
				err = refusal(limited, err)
			}
			settle(q, taken, err)
		}
	}
	return nil
}

// together divides messages into calls of the script, in their order.
func together(parcels []parcel) (calls [][]parcel) {
	for len(parcels) > 0 {
		n, bytes := 1, parcels[0].bytes
		for n < min(len(parcels), mostTogether) && bytes+parcels[n].bytes <= mostBytes {
			bytes += parcels[n].bytes
			n++
		}
		calls, parcels = append(calls, parcels[:n]), parcels[n:]
	}
	return calls
}

// lost says that nothing is known of what was asked, or that the server cannot now.
func lost(err error) bool {
	code, answered := codeOf(err)
	return err != nil && (!answered || temporary[code])
}

// results are what the script says of messages.
type results []any

func resultsOf(answer *goredis.Cmd, want int) (results, error) {
	list, err := answer.Slice()
	if err == nil && len(list) != want {
		err = fmt.Errorf("the server answered with %d results for %d messages", len(list), want)
	}
	return list, err
}

// of returns how many queues took one, or why none did: err if that is of all.
func (r results) of(i int, err error) (taken int64, _ error) {
	if err != nil {
		return 0, err
	}
	switch result := r[i].(type) {
	case int64:
		return result, nil
	case string:
		return 0, refused(result)
	}
	return 0, fmt.Errorf("the server answered with %T", r[i])
}

// refused is an answer of the server's within one that is none.
type refused string

func (r refused) Error() string { return string(r) }

// RedisError makes it an answer of the server's.
func (refused) RedisError() {}

// refusal is what the server says against a message. It is never about the message itself, whose
// form is this package's.
func refusal(ctx context.Context, err error) error {
	if err = explain(ctx, err); transport.AtDestination(err) {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrDestination, err)
}
