package delivery

import (
	"context"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	// retryDelay separates attempts while the queue cannot be reached.
	retryDelay = 250 * time.Millisecond
	// linger lets acks gather while other messages are in work: those of one transaction come
	// together, and should cost one exchange.
	linger = 2 * time.Millisecond
	// leaveTimeout bounds the last exchange, which must outlive the subscription's context.
	leaveTimeout = 15 * time.Second
	// repeatAfter is how often trouble that lasts is logged again.
	repeatAfter = time.Minute
)

// subscription is one loop, which owns all the state below. Beside it runs a goroutine for each
// message handed out, waiting for its ack.
type subscription struct {
	queue     Queue
	window    int
	nackDelay time.Duration
	logger    *slog.Logger
	out       chan *message.Message
	settled   chan delivered

	waiting         []delivered // taken and not handed out yet, in order
	handed          int         // handed out and not settled yet
	acked, returned []int64     // settled since the last exchange
	failing         bool        // the last exchange did
	since, said     time.Time   // of trouble: its beginning, and when it was logged last
}

type delivered struct {
	Taken
	cancel context.CancelFunc // ends the message's context
}

func (s *subscription) run(ctx context.Context) {
	// Closed last: who sees the channel closed finds the unacknowledged messages back in the queue.
	defer close(s.out)
	defer s.leave(ctx)
	for ctx.Err() == nil {
		s.serve(ctx, s.retry(ctx, s.exchange(ctx)))
	}
}

// retry says when to try again, if at all. It logs the beginning and the end of trouble, and once a
// minute that it lasts, not every attempt.
func (s *subscription) retry(ctx context.Context, err error) (pause <-chan time.Time) {
	failed := s.failing
	s.failing = err != nil && ctx.Err() == nil
	switch {
	case s.failing && !failed:
		s.since, s.said = time.Now(), time.Now()
		s.logger.WarnContext(ctx, "queue out of reach: trying again until it answers", "error", err)
	case s.failing && time.Since(s.said) > repeatAfter:
		s.said = time.Now()
		s.logger.ErrorContext(ctx, "queue still out of reach: trying again until it answers",
			"for", time.Since(s.since).Round(time.Second), "error", err)
	case failed && !s.failing:
		s.logger.InfoContext(ctx, "queue answers again")
	}
	if s.failing {
		return time.After(retryDelay)
	}
	return nil
}

// exchange settles what is due and refills the window, which counts every message taken and not
// settled.
func (s *subscription) exchange(ctx context.Context) error {
	taken, err := s.queue.Exchange(ctx, s.acked, s.returned, s.window-len(s.waiting)-s.handed)
	if err != nil {
		return err
	}
	s.acked, s.returned = s.acked[:0], s.returned[:0]
	for _, t := range taken {
		messageCtx, cancel := context.WithCancel(ctx)
		t.Message.SetContext(messageCtx)
		s.waiting = append(s.waiting, delivered{t, cancel})
	}
	return nil
}

// serve hands messages out and collects their fates until another exchange is worth its while: acks
// to pass on, or room and something to take; after a failed one not before the pause is over.
func (s *subscription) serve(ctx context.Context, pause <-chan time.Time) {
	var lingered <-chan time.Time
	for {
		var out chan<- *message.Message
		var next delivered
		if len(s.waiting) > 0 {
			out, next = s.out, s.waiting[0]
		}
		var ready <-chan struct{}
		if pause == nil && len(s.waiting)+s.handed < s.window {
			ready = s.queue.Ready()
		}
		select {
		case <-ctx.Done():
			return
		case out <- next.Message:
			s.waiting = s.waiting[1:]
			s.handed++
			go s.await(ctx, next)
		case d := <-s.settled:
			s.settle(d)
			switch {
			case pause != nil:
			case len(s.waiting)+s.handed == 0:
				return // nobody to wait for
			case lingered == nil:
				lingered = time.After(linger)
			}
		case <-lingered:
			return
		case <-ready:
			return
		case <-pause:
			return
		}
	}
}

// await reports a message as soon as its fate is known, or the subscription's end.
func (s *subscription) await(ctx context.Context, d delivered) {
	select {
	case <-ctx.Done():
	case <-d.Message.Acked():
	case <-d.Message.Nacked():
		d.cancel()
		select {
		case <-ctx.Done():
		case <-time.After(s.nackDelay):
		}
	}
	d.cancel()
	s.settled <- d
}

func (s *subscription) settle(d delivered) {
	s.handed--
	select {
	case <-d.Message.Acked():
		s.acked = append(s.acked, d.ID)
	default:
		s.returned = append(s.returned, d.ID)
	}
}

// leave honours every ack given so far and puts the rest back.
func (s *subscription) leave(ctx context.Context) {
	for s.handed > 0 { // ctx has ended, so every await reports now
		s.settle(<-s.settled)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := s.queue.Leave(ctx, s.acked); err != nil {
		s.logger.WarnContext(ctx,
			"leaving the queue failed: its messages come back when the lease ends", "error", err)
	}
}
