package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

// session is one connection of a publisher, on which one call publishes at a time.
type session struct {
	queues
	socket *socket.Dialer
	inbox  string        // what the replies to messages begin with
	gone   chan struct{} // closed when the connection is

	mu      sync.Mutex
	call    uint64            // which flight the replies are of
	flight  *flight           // nil while nothing is published
	leaders map[string]string // of streams
}

// openSession connects, and makes the streams that are missing, if it is to declare them.
func openSession(ctx context.Context, config Config, declare bool) (*session, error) {
	s := &session{gone: make(chan struct{}), leaders: map[string]string{}}
	nc, dialer, err := config.connect(ctx, "cqrsync publisher", natsgo.NoReconnect(),
		natsgo.ClosedHandler(func(*natsgo.Conn) { close(s.gone) }),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { s.refused(err) }))
	if err != nil {
		return nil, err
	}
	s.socket = dialer
	js, err := jetstream.New(nc)
	if err == nil {
		s.queues = queues{config: config, nc: nc, js: js}
		s.inbox = nc.NewInbox() + "."
		_, err = nc.Subscribe(s.inbox+"*.*", s.reply)
	}
	if err == nil && declare {
		ctx, cancel := bounded.Timeout(ctx, config.ConnectTimeout, nil)
		defer cancel()
		err = config.declare(ctx, js)
	}
	if err == nil {
		s.ask(firstLeader, config.Stream)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return s, nil
}

// Cut ends the session without sending anything more.
func (s *session) Cut() {
	s.socket.Cut()
	s.nc.Close()
}

// Close ends a session that has nothing under way.
func (s *session) Close() { s.nc.Close() }

// Closed says that the connection was lost.
func (s *session) Closed() bool {
	select {
	case <-s.gone:
		return true
	default:
		return s.nc.IsClosed()
	}
}

// begin makes a flight of n messages that of the replies.
func (s *session) begin(n int) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call++
	s.flight = &flight{
		fates: make([]fate, n), subjects: make([]string, n), changed: make(chan struct{}, 1),
		reply: s.inbox + strconv.FormatUint(s.call, 36) + ".",
	}
	return s.flight
}

func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
}

// reply takes the server's answer to a message.
func (s *session) reply(m *natsgo.Msg) {
	call, number, _ := strings.Cut(strings.TrimPrefix(m.Subject, s.inbox), ".")
	s.mu.Lock()
	defer s.mu.Unlock()
	if call == firstLeader || call == aboutLeader {
		s.learnLeader(call, number, m)
		return
	}
	if s.flight == nil || call != strconv.FormatUint(s.call, 36) {
		return // of a call that has ended
	}
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(s.flight.fates) {
		return
	}
	s.flight.settle(i, verdict(m))
}

// verdict reads the server's answer.
func verdict(m *natsgo.Msg) fate {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return fate{known: true, err: errNoStream}
	}
	if !bytes.Contains(m.Data, []byte(`"error"`)) {
		return fate{known: true}
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil || answer.Error == nil {
		return fate{known: true, err: err}
	}
	err := fmt.Errorf("%w: %w", transport.ErrRejected, answer.Error)
	if answer.Error.Code == 503 && answer.Error.ErrorCode != jsMaximumReached {
		err = fmt.Errorf("%w: %w", transport.ErrUnavailable, answer.Error)
	}
	return fate{known: true, err: err}
}

// jsMaximumReached is the code by which a stream that is full refuses a message.
const jsMaximumReached jetstream.ErrorCode = 10077

// refused takes what the server says of no message in particular: that the user may not publish to
// a subject, or nothing at all.
func (s *session) refused(err error) {
	if !errors.Is(err, natsgo.ErrPermissionViolation) {
		return
	}
	_, rest, found := strings.Cut(err.Error(), `Publish to "`)
	denied, _, quoted := strings.Cut(rest, `"`)
	if !found || !quoted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight == nil {
		return
	}
	for i, subject := range s.flight.subjects {
		if strings.EqualFold(subject, denied) && !s.flight.fates[i].known {
			s.flight.settle(i, fate{known: true, err: fmt.Errorf(
				"%w: the user may not publish to the subject %s", transport.ErrDestination, denied)})
		}
	}
}

// fate is what became of a message.
type fate struct {
	known bool
	err   error
}

// flight is the messages of a call. Its session's lock guards it.
type flight struct {
	fates    []fate
	subjects []string // of those that were sent
	open     int      // sent, and not answered yet
	moved    bool     // the stream has another leader than they were sent to
	reply    string
	changed  chan struct{} // receives when something is settled
}

func (f *flight) settle(i int, what fate) {
	if f.fates[i].known || f.subjects[i] == "" {
		return
	}
	f.fates[i] = what
	f.open--
	f.wake()
}

func (f *flight) wake() {
	select {
	case f.changed <- struct{}{}:
	default: // it has not looked since the last time
	}
}
