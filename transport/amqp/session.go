package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

// ErrNacked is the error of a message that the broker took and could not keep, for example because
// a queue is full and rejects. It concerns that message alone, and is a transport.ErrRejected.
var ErrNacked = fmt.Errorf("%w (nack): see the limits of the queues bound to its topic",
	transport.ErrRejected)

// ErrRefused is the error of a message whose content made the broker close the channel: larger than
// it allows, headers that it reserves for itself, more metadata than fit a frame. It concerns that
// message alone, and comes back with it.
var ErrRefused = errors.New("the broker refuses the message")

// errReturned says that no queue takes the message. Publisher decides what that means.
var errReturned = errors.New("returned")

// parcel is one message on its way.
type parcel struct {
	index      int // in the caller's batch
	message    *message.Message
	exchange   string
	key        string
	publishing amqp091.Publishing            // of message, when it is about to be sent
	unfit      error                         // why it cannot be
	mandatory  bool                          // comes back when no queue takes it
	confirm    *amqp091.DeferredConfirmation // nil until it is sent
}

func (p *parcel) to() route { return route{p.exchange, p.key} }

// session is a connection with one channel in confirm mode. One caller uses it at a time, because
// the order of messages is that of one channel, and because what goes wrong then concerns that
// caller only. After an error it goes on with a new channel if only the channel was closed, and
// else is thrown away.
type session struct {
	config   Config
	conn     *connection
	channel  *amqp091.Channel
	closed   chan *amqp091.Error
	returns  chan amqp091.Return
	returned map[destination]int // returns that are not assigned to their parcel yet
	declared map[string]bool     // exchanges
	routes   routes
}

// destination identifies a returned message. Parcels that share it are the same message: any of
// them will do.
type destination struct{ messageID, exchange, key string }

func openSession(ctx context.Context, d *dialer, config Config) (*session, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{config: config, conn: conn}
	if err := s.reopen(ctx); err != nil {
		conn.cut()
		return nil, err
	}
	return s, nil
}

// reopen begins anew with another channel of the same connection. What the broker does not read any
// more of the last one it passes over until it hears that it is closed, which amqp091 says behind
// everything else that was sent on it.
func (s *session) reopen(ctx context.Context) error {
	ctx, release := s.conn.limit(ctx, s.config.connectTimeout())
	defer release()
	channel, err := s.conn.Channel()
	if err == nil {
		err = channel.Confirm(false)
	}
	if err != nil {
		return fmt.Errorf("open a channel with confirms: %w", because(ctx, err))
	}
	s.channel = channel
	s.closed = channel.NotifyClose(make(chan *amqp091.Error, 1))
	// A return comes before the confirm of its message, and at most Window messages lack theirs.
	// amqp091 would drop a return that finds no room, and the message would pass for routed.
	s.returns = channel.NotifyReturn(make(chan amqp091.Return, s.config.Window))
	s.returned = map[destination]int{}
	s.declared = map[string]bool{}
	s.routes = newRoutes(s.config.Publish.Mandatory)
	return nil
}

// channelOnly says that an error has ended the channel, and perhaps nothing but the channel.
func channelOnly(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, transport.ErrDestination)
}

// publish sends parcels in order with up to window of them unconfirmed, and calls settle for each
// as its fate becomes known: nil, errReturned, ErrNacked or what makes it unfit. An error means
// that the session is over; what was not settled by then may or may not have arrived.
//
// Nothing leaves after ctx has ended or its deadline has passed, also of what was written to the
// socket before.
func (s *session) publish(
	ctx context.Context, parcels []parcel, window int, settle func(*parcel, error),
) (err error) {
	s.conn.socket.gather(func() error { return transport.Ended(ctx) })
	defer func() {
		if err != nil && !channelOnly(err) {
			s.conn.socket.discard()
			return
		}
		// Heartbeats where every message has its answer, and what the broker passes over where the
		// channel was closed.
		if left := s.conn.socket.release(); err == nil {
			err = left
		}
	}()
	s.routes.begin()
	sent, settled := 0, 0
	for settled < len(parcels) {
		if sent < len(parcels) && sent-settled < window {
			p := &parcels[sent]
			if s.pack(p) {
				if err := s.send(ctx, p); err != nil {
					return err
				}
			}
			sent++
			continue
		}
		p := &parcels[settled]
		if p.unfit == nil {
			if err := s.await(ctx, p); err != nil {
				return err
			}
		}
		settle(p, s.fate(p))
		settled++
	}
	return nil
}

// pack makes what is sent, and says whether it can be.
func (s *session) pack(p *parcel) (fit bool) {
	p.publishing, p.unfit = s.config.Marshaler.Marshal(p.message)
	if p.unfit == nil {
		p.unfit = checkLimits(p.publishing)
	}
	return p.unfit == nil
}

func (s *session) send(ctx context.Context, p *parcel) (err error) {
	if b := s.conn.blockade.Load(); b != nil {
		if err := s.patience(ctx, b.over); err != nil {
			return err
		}
	}
	if err := transport.Ended(ctx); err != nil {
		return err
	}
	p.mandatory = s.routes.mandatory(route{p.exchange, p.key})
	p.confirm, err = s.channel.PublishWithDeferredConfirm(p.exchange, p.key, p.mandatory, false,
		p.publishing)
	return s.cause(err)
}

// await returns when the broker confirmed or nacked the parcel.
func (s *session) await(ctx context.Context, p *parcel) error {
	select {
	case <-p.confirm.Done():
	default:
		if err := s.patience(ctx, p.confirm.Done()); err != nil {
			return err
		}
	}
	// amqp091 nacks whatever is open when a channel closes
	if !p.confirm.Acked() && s.channel.IsClosed() {
		return s.cause(amqp091.ErrClosed)
	}
	return nil
}

// fate of a parcel that was awaited, or is unfit.
func (s *session) fate(p *parcel) error {
	if p.unfit != nil {
		return p.unfit
	}
	for len(s.returns) > 0 {
		r := <-s.returns
		s.returned[destination{r.MessageId, r.Exchange, r.RoutingKey}]++
	}
	if !p.confirm.Acked() {
		return ErrNacked
	}
	returned := s.claimReturn(destination{p.publishing.MessageId, p.exchange, p.key})
	if p.mandatory {
		s.routes.learn(route{p.exchange, p.key}, returned)
	}
	if returned {
		return errReturned
	}
	return nil
}

// claimReturn assigns a return to a parcel, if there is one for it.
func (s *session) claimReturn(to destination) (found bool) {
	switch n := s.returned[to]; n {
	case 0:
		return false
	case 1:
		delete(s.returned, to)
	default:
		s.returned[to] = n - 1
	}
	return true
}

// patience waits for an event as long as the broker is given for one. The broker needs to have
// everything for that.
func (s *session) patience(ctx context.Context, event <-chan struct{}) error {
	if err := s.conn.socket.flush(); err != nil {
		return err
	}
	timer := time.NewTimer(s.config.ConfirmTimeout)
	defer timer.Stop()
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		if b := s.conn.blockade.Load(); b != nil {
			return fmt.Errorf("RabbitMQ has blocked publishers for %s: %s", s.config.ConfirmTimeout,
				b.reason)
		}
		return fmt.Errorf("RabbitMQ did not confirm within %s", s.config.ConfirmTimeout)
	}
}

// cause finds the broker's reason behind "closed".
func (s *session) cause(err error) error {
	found := closedBecause(s.closed, err)
	var reason *amqp091.Error
	if errors.Is(err, amqp091.ErrClosed) && !errors.Is(found, amqp091.ErrClosed) &&
		errors.As(found, &reason) {
		return explained(reason)
	}
	return found
}
