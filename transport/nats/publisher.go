package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
)

// Publisher publishes with pipelined confirms. It connects when it has something to publish, not
// before, so that a service starts without its broker.
type Publisher struct {
	config Config
	routes routes
	turns  chan struct{} // a token per call that is publishing

	closeOnce sync.Once
	closing   chan struct{}   // closed first: no new calls
	ended     context.Context // ends when the calls under way had their time
	end       context.CancelFunc

	mu         sync.Mutex
	idle       []*session
	unroutable map[string]int64
}

var (
	_ transport.BatchPublisher = (*Publisher)(nil)
	_ transport.Prober         = (*Publisher)(nil)
)

var errClosed = errors.New("the publisher is closed")

// NewPublisher checks the configuration. It does not connect.
func NewPublisher(config Config) (*Publisher, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	p := &Publisher{
		config:     config,
		routes:     routes{streams: map[string]*route{}},
		turns:      make(chan struct{}, config.Connections),
		closing:    make(chan struct{}),
		unroutable: map[string]int64{},
	}
	p.ended, p.end = context.WithCancel(context.Background())
	return p, nil
}

// Publish publishes messages in order and returns what went wrong, joined. It ends early with the
// context of any of the messages, and does not stop at one that is refused.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	batch := make([]transport.Outgoing, len(messages))
	for i, msg := range messages {
		batch[i] = transport.Outgoing{Topic: topic, Message: msg}
		if msg.Context().Err() != nil {
			cancel(context.Cause(msg.Context()))
		}
		defer context.AfterFunc(msg.Context(), func() { cancel(context.Cause(msg.Context())) })()
	}
	// Without an id: whoever sends a message again means it, as a dead letter that is dead anew.
	return errors.Join(p.publish(ctx, batch, false)...)
}

// PublishBatch implements transport.BatchPublisher. The server drops a message whose UUID and topic
// it got within two minutes, and reports it as published.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	return p.publish(ctx, batch, true)
}

// parcel is a message on its way, and its place in the batch.
type parcel struct {
	index int
	msg   *natsgo.Msg
}

func (p *Publisher) publish(ctx context.Context, batch []transport.Outgoing, ids bool) []error {
	errs := make([]error, len(batch))
	parcels := p.pack(batch, ids, errs)
	if len(parcels) == 0 {
		return errs
	}
	err := p.use(ctx, func(ctx context.Context, s *session) error {
		parcels, err := p.route(ctx, s, parcels, batch, errs)
		if err != nil {
			giveUp(parcels, errs, err)
			return err
		}
		messages := make([]*natsgo.Msg, len(parcels))
		for i, q := range parcels {
			messages[i] = q.msg
		}
		fates, err := s.send(ctx, messages)
		lost := p.settle(ctx, s, parcels, fates, batch, errs, err)
		return cmp.Or(err, lost)
	})
	if err != nil {
		for _, q := range parcels {
			if errs[q.index] == errUnsent { //nolint:errorlint // the value that stands there
				errs[q.index] = unavailable(err)
			}
		}
	}
	return errs
}

// errUnsent stands for the fate of a message that nobody has tried to send.
var errUnsent = errors.New("not sent")

func unavailable(err error) error {
	if errors.Is(err, transport.ErrUnavailable) || errors.Is(err, transport.ErrDestination) {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

// pack encodes messages, and notes in errs what is wrong with those that cannot be.
func (p *Publisher) pack(batch []transport.Outgoing, ids bool, errs []error) []parcel {
	parcels := make([]parcel, 0, len(batch))
	for i, out := range batch {
		err := checkTopic(out.Topic)
		var msg *natsgo.Msg
		if err == nil {
			msg, err = encode(subject(streamOf(p.config.Stream, out.Topic), out.Topic), out.Message)
		}
		if err != nil {
			errs[i] = about(out, err)
			continue
		}
		if ids {
			msg.Header[idHeader] = []string{encodeText(out.Message.UUID) + " " + msg.Subject}
		}
		errs[i] = errUnsent
		parcels = append(parcels, parcel{i, msg})
	}
	return parcels
}

func about(out transport.Outgoing, err error) error {
	return fmt.Errorf("message %s to %s: %w", out.Message.UUID, out.Topic, err)
}

// route takes out those that no queue would take.
func (p *Publisher) route(
	ctx context.Context, s *session, parcels []parcel, batch []transport.Outgoing, errs []error,
) (routed []parcel, err error) {
	topics := map[string]string{}
	for _, q := range parcels {
		topics[batch[q.index].Topic] = q.msg.Subject
	}
	bound, err := p.routes.bound(ctx, s, topics)
	if err != nil {
		return parcels, fmt.Errorf("look which topics have a queue: %w", err)
	}
	for _, q := range parcels {
		out := batch[q.index]
		switch {
		case bound[out.Topic]:
			routed = append(routed, q)
		case p.config.DropUnroutable:
			p.countUnroutable(out.Topic)
			errs[q.index] = nil
		default:
			errs[q.index] = about(out, transport.ErrUnroutable)
		}
	}
	return routed, nil
}

// settle notes what became of each message. It returns an error if the session should be given up.
func (p *Publisher) settle(
	ctx context.Context, s *session, parcels []parcel, fates []fate, batch []transport.Outgoing,
	errs []error, cause error,
) (lost error) {
	for i, q := range parcels {
		f := fates[i]
		switch {
		case !f.known:
			errs[q.index] = unavailable(cause)
		case errors.Is(f.err, errNoStream):
			if lost == nil {
				lost = p.noStream(ctx, s)
			}
			errs[q.index] = about(batch[q.index], lost)
		case f.err != nil:
			errs[q.index] = about(batch[q.index], f.err)
		default:
			errs[q.index] = nil
		}
	}
	return lost
}

// noStream says why nothing took a message: the stream was deleted, and whoever connects next makes
// it anew, or has no leader for the moment.
func (p *Publisher) noStream(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.ConnectTimeout)
	defer cancel()
	err := p.config.declare(ctx, s.js)
	if errors.Is(err, errNoStream) {
		return fmt.Errorf("%w: %w", transport.ErrDestination, err)
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, cmp.Or(err, errNoStream))
}

func giveUp(parcels []parcel, errs []error, err error) {
	for _, q := range parcels {
		errs[q.index] = unavailable(err)
	}
}

// Probe implements transport.Prober.
func (p *Publisher) Probe(ctx context.Context) error {
	err := p.use(ctx, func(ctx context.Context, s *session) error {
		ctx, cancel := context.WithTimeout(ctx, p.config.ConnectTimeout)
		defer cancel()
		return s.nc.FlushWithContext(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return nil
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made.
func (p *Publisher) Unroutable() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.unroutable)
}

func (p *Publisher) countUnroutable(topic string) {
	p.mu.Lock()
	p.unroutable[topic]++
	first := p.unroutable[topic] == 1
	p.mu.Unlock()
	if first {
		p.config.Logger.Warn("no queue takes the messages of a topic: they are gone; set "+
			"mandatory=true to keep them back", "topic", topic)
	}
}

// use calls do with a session, which is kept for the next call unless do returns an error.
func (p *Publisher) use(ctx context.Context, do func(context.Context, *session) error) error {
	if err := transport.Ended(ctx); err != nil {
		return unavailable(err)
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ended, func() { cancel(errClosed) })()
	if err := p.enter(inner); err != nil {
		return unavailable(err)
	}
	defer func() { <-p.turns }()
	s, err := p.session(inner)
	if err != nil {
		return unavailable(err)
	}
	if err := do(deadlined{inner, ctx}, s); err != nil {
		s.cut()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
	return nil
}

// deadlined is a context with the deadline of another one, which may move.
type deadlined struct {
	context.Context
	of context.Context
}

func (d deadlined) Deadline() (time.Time, bool) { return d.of.Deadline() }

func (p *Publisher) session(ctx context.Context) (*session, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		last := len(p.idle) - 1
		s := p.idle[last]
		p.idle = p.idle[:last]
		if !s.closed() {
			p.mu.Unlock()
			return s, nil
		}
	}
	p.mu.Unlock()
	return openSession(ctx, p.config)
}

// enter waits for a turn.
func (p *Publisher) enter(ctx context.Context) error {
	select {
	case <-p.closing:
		return errClosed
	default:
	}
	select {
	case <-p.closing:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	case p.turns <- struct{}{}:
		return nil
	}
}

// Close refuses new calls, gives those under way ConfirmTimeout to finish, and disconnects.
func (p *Publisher) Close() error {
	p.closeOnce.Do(func() {
		close(p.closing)
		timer := time.AfterFunc(p.config.ConfirmTimeout, p.end)
		defer timer.Stop()
		for range cap(p.turns) {
			p.turns <- struct{}{}
		}
		p.end()
		for _, s := range slices.Backward(p.idle) {
			s.close()
		}
		p.idle = nil
	})
	return nil
}
