package converge

import (
	"sync"
	"time"
)

// silent are the topics of masters that nobody takes anything from. It is safe for concurrent use.
type silent struct {
	mu     sync.Mutex
	topics map[string]silence
}

// silence is when a topic was tried last, and how long it is not tried again.
type silence struct {
	tried time.Time
	pause time.Duration
}

// A master that does not answer may be starting, or does not know how. It is tried again after
// retrySilent, and each time after twice as long.
const (
	retrySilent     = time.Second
	retrySilentMost = time.Minute
)

func (s *silent) still(topic string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, is := s.topics[topic]
	return is && now.Sub(last.tried) < last.pause
}

func (s *silent) add(topic string, now time.Time) (isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics == nil {
		s.topics = map[string]silence{}
	}
	last, was := s.topics[topic]
	s.topics[topic] = silence{now, min(max(2*last.pause, retrySilent), retrySilentMost)}
	return !was
}

func (s *silent) end(topic string) (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was = s.topics[topic]
	delete(s.topics, topic)
	return was
}
