package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
)

// send publishes messages, a window of them unconfirmed at a time, and returns what became of each.
// err says why some are unknown, and that the session is of no more use.
func (s *session) send(ctx context.Context, messages []*natsgo.Msg) (fates []fate, err error) {
	s.socket.Permit(func() error { return transport.Ended(ctx) })
	defer s.socket.Permit(nil)
	f := s.begin(len(messages))
	defer s.end()
	for i, m := range messages {
		if err := s.await(ctx, f, s.config.Window-1); err != nil {
			return s.fates(f), err
		}
		if err := transport.Ended(ctx); err != nil {
			return s.fates(f), err
		}
		m.Reply = f.reply + strconv.Itoa(i)
		s.mu.Lock()
		f.subjects[i] = m.Subject
		f.open++
		s.mu.Unlock()
		if err := s.nc.PublishMsg(m); err != nil {
			if errors.Is(err, natsgo.ErrMaxPayload) || errors.Is(err, natsgo.ErrBadSubject) {
				s.mu.Lock()
				f.settle(i, fate{known: true, err: err}) // it was not sent, and would never be
				s.mu.Unlock()
				continue
			}
			return s.fates(f), err
		}
	}
	err = s.await(ctx, f, 0)
	return s.fates(f), err
}

// await returns when at most so many messages are unconfirmed.
func (s *session) await(ctx context.Context, f *flight, most int) error {
	var timer, silence *time.Timer
	for {
		s.mu.Lock()
		open, moved := f.open, f.moved
		s.mu.Unlock()
		switch {
		case open <= most:
			return nil
		case moved:
			return errMoved
		case timer == nil:
			timer, silence = time.NewTimer(s.config.ConfirmTimeout), time.NewTimer(askLeader)
			defer timer.Stop()
			defer silence.Stop()
		}
		select {
		case <-f.changed:
			timer.Reset(s.config.ConfirmTimeout)
			silence.Reset(askLeader)
		case <-silence.C:
			s.askForLeader(f)
			silence.Reset(askLeader)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.gone:
			if err := transport.Ended(ctx); err != nil {
				return err // the socket was cut for that
			}
			return fmt.Errorf("the connection was lost: %w", errors.Join(s.nc.LastError()))
		case <-timer.C:
			return fmt.Errorf("no confirm within %s", s.config.ConfirmTimeout)
		}
	}
}

func (s *session) fates(f *flight) []fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]fate(nil), f.fates...)
}
