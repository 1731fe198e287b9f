package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/transport"
)

var errPoison = errors.New("the broker cannot take what this message says")

// publisher is a process's way to the broker.
type publisher struct{ *process }

func (p publisher) Publish(topic string, messages ...*message.Message) error {
	batch := []transport.Outgoing{{Topic: topic, Message: messages[0]}}
	return p.PublishBatch(messages[0].Context(), batch)[0]
}

func (publisher) Close() error { return nil }

// Probe finds the broker unless it is away.
func (p publisher) Probe(ctx context.Context) error {
	r := p.world.schedule.dice(p.name+"probe", p.count("probe"))
	err := p.step(ctx, between(r, 1, 3*time.Millisecond), between(r, 1, time.Millisecond))
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return nil
}

// flight is a batch on its way.
type flight struct {
	ctx      context.Context
	left     time.Time // before the lease ended, or nobody is excused
	arrivals []*envelope.Message
	again    []*envelope.Message // arrive twice
	answers  []error
}

// PublishBatch sends a batch. What becomes of each message is drawn.
func (p publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	messages := make([]*envelope.Message, len(batch))
	for i, out := range batch {
		m, err := envelope.Decode(out.Message.Payload, out.Message.Metadata)
		if err != nil {
			panic(err) // the relay made it
		}
		messages[i] = m
	}
	first := "publish " + nameOf(messages[0])
	r := p.world.schedule.dice(p.name+first, p.count(first))
	s, trouble := p.world.schedule, p.world.trouble() && !p.well
	own := between(r, 1, time.Millisecond)
	if trouble && happens(r, s.pause) {
		p.stand(between(r, 0, 3*ttl))
	}
	_ = p.step(ctx, between(r, 1, time.Millisecond), own) // Ended says the same
	f := p.send(ctx, messages)
	there, back := between(r, 1, 4*time.Millisecond), between(r, 1, 4*time.Millisecond)
	if trouble && happens(r, s.lateArrival) {
		there = between(r, 0, ttl)
	}
	twice, answered := between(r, 1, ttl), there+back
	p.world.running.Go(func() { p.arrive(f, there, twice) })
	switch silent, cut := happens(r, s.never), happens(r, s.cutOff); {
	case trouble && silent:
		answered = confirmTimeout + own
		f.unanswer(errors.New("no answer in time"))
	case trouble && cut: // and the network still has it
		answered = back
		f.unanswer(errors.New("the connection was cut"))
	}
	if err := p.step(ctx, answered, own); err != nil {
		f.unanswer(err)
	}
	for i, err := range f.answers {
		if err != nil && !errors.Is(err, transport.ErrUnavailable) {
			p.world.checker.refuses(messages[i])
		}
	}
	return f.answers
}

func (f *flight) unanswer(err error) {
	for i := range f.answers {
		f.answers[i] = unavailable(errors.Join(f.answers[i], err))
	}
}

func unavailable(err error) error {
	return fmt.Errorf("%w: no answer: %w", transport.ErrUnavailable, err)
}

func nameOf(m *envelope.Message) string { return fmt.Sprintf("%s/%d", m.Key, m.Revision) }

// send hands messages to the network, as long as the relay may.
func (p publisher) send(ctx context.Context, messages []*envelope.Message) flight {
	f := flight{ctx: ctx, left: time.Now(), answers: make([]error, len(messages))}
	for i, m := range messages {
		p.mu.Lock()
		dead := p.dead
		p.mu.Unlock()
		if err := transport.Ended(ctx); err != nil || dead {
			f.answers[i] = unavailable(err)
			continue
		}
		r := p.world.schedule.dice(p.name+nameOf(m), p.count("send "+nameOf(m)))
		p.world.checker.leaves(p.name, m, p.world.database.Unsent())
		f.add(i, m, p.fate(r, m))
	}
	return f
}

// fate is what becomes of a message.
type fate struct {
	arrives, twice bool
	answer         error
}

func (f *flight) add(i int, m *envelope.Message, what fate) {
	f.answers[i] = what.answer
	if what.arrives {
		f.arrivals = append(f.arrivals, m)
	}
	if what.twice {
		f.again = append(f.again, m)
	}
}

func (p publisher) fate(r *rand.Rand, m *envelope.Message) fate {
	s := p.world.schedule
	twice := happens(r, s.twice)
	switch trouble := p.world.trouble() && !p.well; {
	case p.world.poisonous(m):
		return fate{answer: errPoison}
	case trouble && happens(r, s.unanswered):
		return fate{arrives: true, twice: twice, answer: transport.ErrUnavailable}
	case trouble && happens(r, s.cutOff):
		return fate{answer: transport.ErrUnavailable}
	case trouble && happens(r, s.rejected):
		return fate{answer: transport.ErrRejected}
	}
	return fate{arrives: true, twice: twice}
}

// arrive is when the broker has what was sent.
func (p publisher) arrive(f flight, there, later time.Duration) {
	pause(there)
	p.reach(f, f.arrivals)
	if len(f.again) > 0 {
		pause(later)
		p.reach(f, f.again)
	}
}

func (p publisher) reach(f flight, messages []*envelope.Message) {
	deadline, _ := f.ctx.Deadline()
	p.mu.Lock()
	excused := f.left.Before(deadline) && !time.Now().Before(deadline) || p.replaced
	p.mu.Unlock()
	dead := p.world.database.DeadLetters()
	for _, m := range messages {
		p.world.checker.arrives(m, excused, dead)
	}
}
