package relay

import (
	"maps"
	"slices"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// lane is how far one lane was read. Nothing else moves its low-water mark.
//
// It holds at any time: whatever is unsent at or below low is in memory, and nothing can be
// committed there any more. Were that only probable, the message after one that was committed late
// could go before it (P4).
//
//	low moves up    when a reading from it has seen all there is, and those have ended who were
//	                writing before (note), or where a compaction found nothing else (note)
//	low stays       while a key waits that is left out of readings, and while there is no room for
//	                messages of a key (block)
//	low moves down  when something at or below it is to be read again (rewind)
//
// A reading starts at low, because where many rows were removed it walks over what is left of them:
// all of them, for as long as any snapshot is held anywhere in the database.
type lane struct {
	number int
	low    int64
	// high is the newest message read. Below it there may be messages that were not committed when
	// it was read.
	high int64
	// mark is a low-water mark to be, 0 without one. The transactions in pending were open after
	// everything up to there had been read that was committed; when they have ended, the next look
	// from low has seen all.
	mark    int64
	pending []string
	// blocked says that there was no room for messages of a key.
	blocked bool
}

// pass is what one reading says of a lane.
type pass struct {
	first, last int64 // messages that it brought, 0 without any
	seen        int64 // it has seen everything up to here
	before      int64 // where high was before
	// writers had the outbox open before it. Nil where that is not known, or a key of the lane
	// waits.
	writers *queue.Writers
	dropped int64 // compaction has found nothing else up to here
}

// note learns from a reading.
func (l *lane) note(p pass) {
	if p.first > 0 && p.first <= l.low {
		l.rewind(p.first) // found by looking back: what follows it must not go before it
	}
	l.high = max(l.high, p.last)
	if p.writers == nil {
		return
	}
	l.low = max(l.low, p.dropped)
	if !l.blocked {
		l.advance(*p.writers, p.before, p.seen)
	}
}

// advance moves low after a look from it that has seen everything up to seen. writers had the
// outbox open before that; before is where high was before that.
func (l *lane) advance(writers queue.Writers, before, seen int64) {
	if l.mark > 0 && seen >= l.mark {
		if l.pending = writers.Left(l.pending); len(l.pending) == 0 {
			l.low, l.mark = l.mark, 0
		}
	}
	if mark := max(before, min(writers.Drawn, seen)); l.mark == 0 && mark > l.low {
		l.mark, l.pending = mark, slices.Collect(maps.Keys(writers.Open))
		if len(l.pending) == 0 && seen >= mark {
			l.low, l.mark = mark, 0 // nobody was there to commit late
		}
	}
}

// rewind makes the next readings bring a message, and all behind it that is not in memory.
func (l *lane) rewind(id int64) { l.low, l.mark = min(l.low, id-1), 0 }

// block notes that there was no room for a message.
func (l *lane) block(id int64) {
	l.rewind(id)
	l.blocked = true
}

// unblock notes that there is room for all.
func (l *lane) unblock() { l.blocked = false }

// lanes are those that the relay owns.
type lanes []*lane

func newLanes(owned []queue.Lane) lanes {
	all := make(lanes, len(owned))
	for i, l := range owned {
		all[i] = &lane{number: l.Lane}
	}
	return all
}

// of returns a lane by its number, nil if it is another relay's.
func (all lanes) of(number int) *lane {
	for _, l := range all {
		if l.number == number {
			return l
		}
	}
	return nil
}
