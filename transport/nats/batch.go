package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/pool"
)

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
	err := p.sessions.Use(ctx, func(ctx context.Context, s *session) error {
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
			if errs[q.index] == pool.ErrUnsent { //nolint:errorlint // the value that stands there
				errs[q.index] = pool.Unavailable(err)
			}
		}
	}
	return errs
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
			errs[i] = pool.About(out, err)
			continue
		}
		if ids {
			msg.Header[idHeader] = []string{encodeText(out.Message.UUID) + " " + msg.Subject}
		}
		errs[i] = pool.ErrUnsent
		parcels = append(parcels, parcel{i, msg})
	}
	return parcels
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
			p.unroutable.Count(out.Topic, p.config.Logger)
			errs[q.index] = nil
		default:
			errs[q.index] = pool.About(out, transport.ErrUnroutable)
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
			errs[q.index] = pool.Unavailable(cause)
		case errors.Is(f.err, errNoStream):
			if lost == nil {
				stream, _, _ := strings.Cut(q.msg.Subject, ".")
				lost = p.noStream(ctx, s, stream)
			}
			errs[q.index] = pool.About(batch[q.index], lost)
		case f.err != nil:
			errs[q.index] = pool.About(batch[q.index], f.err)
		default:
			errs[q.index] = nil
		}
	}
	return lost
}

// noStream says why nothing took a message: the stream was deleted, and whoever connects next makes
// it anew, or has no leader for the moment.
func (p *Publisher) noStream(ctx context.Context, s *session, stream string) error {
	p.declared.Store(false)
	ctx, cancel := bounded.Timeout(ctx, p.config.ConnectTimeout, nil)
	defer cancel()
	err := p.config.declare(ctx, s.js, stream)
	if errors.Is(err, errNoStream) {
		return fmt.Errorf("%w: %w", transport.ErrDestination, err)
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, cmp.Or(err, errNoStream))
}

func giveUp(parcels []parcel, errs []error, err error) {
	for _, q := range parcels {
		errs[q.index] = pool.Unavailable(err)
	}
}
