package relay

import (
	"maps"
	"slices"

	"github.com/cqrsync/cqrsync/internal/store"
)

// position is how far a lane was read.
//
// Where many rows were removed, a claim that starts at the beginning of a lane walks over what is left of them, and as
// long as any snapshot is held anywhere in the database, that is all of them. So it starts at the floor.
type position struct {
	lane int
	// floor: whatever is unsent at or below it is in memory, and nothing can be committed there any more. Were it only
	// probable, the message after one that was committed late could go before it.
	floor int64
	// cursor is the newest message read. Below it there may be messages that were not committed when it was read.
	cursor int64
	// mark is a floor to be, 0 without one. The transactions in pending were open after everything up to there had been
	// read that was committed; when they have ended, the next look from the floor has seen all.
	mark    int64
	pending []string
	// crowded says that there was no room for messages of a key: the floor must not pass them.
	crowded bool
}

// rewind makes the next claims start behind id.
func (p *position) rewind(id int64) {
	p.floor, p.mark = min(p.floor, id), 0
}

// advance moves the floor after a look from it that has seen everything up to seen. writers had the outbox open before
// that; before is where the cursor was before that.
func (p *position) advance(writers store.Writers, before, seen int64) {
	if p.mark > 0 && seen >= p.mark {
		if p.pending = writers.Left(p.pending); len(p.pending) == 0 {
			p.floor, p.mark = p.mark, 0
		}
	}
	if mark := max(before, min(writers.Drawn, seen)); p.mark == 0 && mark > p.floor {
		p.mark, p.pending = mark, slices.Collect(maps.Keys(writers.Open))
		if len(p.pending) == 0 && seen >= mark {
			p.floor, p.mark = mark, 0 // nobody was there to commit late
		}
	}
}
