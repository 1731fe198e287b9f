package relay

import "time"

// schedule decides when to read.
type schedule struct {
	idle      time.Duration // the longest time between two readings
	heartbeat time.Duration

	at    time.Time     // when to read next
	poll  time.Duration // how long after that, if there is nothing
	again bool          // there may be something that the reading under way does not see

	dueAt     time.Time // when a key may stop waiting; zero without one
	checkAt   time.Time // when to ask who writes
	backAt    time.Time // when to look back
	compactAt time.Time
}

const (
	// checkEvery is how often low-water marks are moved up to where nobody writes any more. A
	// reading brings again everything between the marks of a lane, which costs more than to ask who
	// writes. In a backlog every reading asks.
	checkEvery = 50 * time.Millisecond

	// A look back starts at the very beginning, for what was put there by hand. It walks over what
	// is left of all that was removed, a second for half a million rows, so in a backlog it is one
	// lane's turn at a time.
	backEvery = 2 * time.Second

	// share is the part of the time, 1 in so many, that looking back and compacting in vain may
	// take.
	share = 50
)

func newSchedule(cfg Config) schedule {
	return schedule{idle: cfg.PollInterval, heartbeat: cfg.heartbeat(), poll: minPoll}
}

// hurry makes the next reading come at once.
func (s *schedule) hurry() { s.poll, s.at, s.again = minPoll, time.Time{}, true }

// soon makes the next reading come as after any work.
func (s *schedule) soon() {
	s.poll = minPoll
	if at := time.Now().Add(minPoll); s.at.After(at) {
		s.at = at
	}
}

// dueIn makes a reading come when a key may have stopped waiting.
func (s *schedule) dueIn(wait time.Duration) {
	if at := time.Now().Add(wait); s.dueAt.IsZero() || at.Before(s.dueAt) {
		s.dueAt = at
	}
	s.notLater()
}

func (s *schedule) notLater() {
	if !s.dueAt.IsZero() && s.dueAt.Before(s.at) {
		s.at = s.dueAt
	}
}

// begin notes that a reading begins.
func (s *schedule) begin(now time.Time) {
	if !s.dueAt.IsZero() && !now.Before(s.dueAt) {
		s.dueAt = time.Time{}
	}
	s.again = false
}

// lookedBack notes that part of all lanes were looked back at, which took a while.
func (s *schedule) lookedBack(now time.Time, part, all int, took time.Duration) {
	s.backAt = now.Add(max(backEvery*time.Duration(part)/time.Duration(all), share*took))
}

// end says when to read next, after a reading that brought so many messages; more says that there
// are more.
func (s *schedule) end(now time.Time, added int, more bool) {
	switch {
	case more || s.again:
		s.at = now
	case added > 0:
		s.poll = minPoll
		s.at = now.Add(minPoll)
	default:
		s.at = now.Add(min(s.poll, s.heartbeat))
		s.poll = min(2*s.poll, s.idle)
	}
	s.notLater()
}
