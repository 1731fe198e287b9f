package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Neighbour is another database that a replica of the same queue writes to. The broker gives each
// message to one of them, so neither database is ever right.
type Neighbour struct {
	Queue, Database string
	// First and Last are when it was found, by the clock of this replica's database; Times is how
	// often.
	First, Last time.Time
	Times       int64
	// Active says that it was found more than once, and in the last ten minutes. One that was found
	// once may be the database that the replica had before.
	Active bool
}

// Neighbours returns the other databases that were found behind the queue. They are found where the
// subscriber is a transport.Registrar, as those of package transport/open are.
func (r *Replica) Neighbours(ctx context.Context) ([]Neighbour, error) {
	if r.tables == nil {
		return nil, nil
	}
	found, now, err := r.tables.Neighbours(ctx)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	var all []Neighbour
	for _, n := range found {
		if n.Queue == r.config.Queue {
			all = append(all, Neighbour{
				Queue: n.Queue, Database: n.ID, First: n.First, Last: n.Last, Times: n.Times,
				Active: n.Times > 1 && now.Sub(n.Last) < rivalFor,
			})
		}
	}
	return all, nil
}

// registerEvery is how often the database is noted with the queue.
const registerEvery = 30 * time.Second

// watchQueue notes the database with the queue, and whose note was there, until ctx ends.
func (r *Replica) watchQueue(ctx context.Context, subscriber message.Subscriber) {
	registrar, can := subscriber.(transport.Registrar)
	if !can || r.tables == nil {
		return
	}
	failed, met := false, map[string]int{}
	for {
		before, own, err := r.register(ctx, registrar)
		switch {
		case err != nil && ctx.Err() == nil && !failed:
			failed = true
			r.log.Warn("cannot note the database with the queue: another one behind the same "+
				"queue is not noticed", "error", err)
		case err == nil && before != "" && before != own:
			failed = false
			met[before]++
			r.meet(ctx, before, own, met[before])
		case err == nil:
			failed = false
		}
		if !pauseFor(ctx, r.registerEvery) {
			return
		}
	}
}

func (r *Replica) register(
	ctx context.Context, registrar transport.Registrar,
) (before, own string, err error) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	if own, err = r.tables.Identity(ctx); err != nil {
		return "", "", err
	}
	before, err = registrar.Register(ctx, own)
	return before, own, err
}

// meet says that another database is, or was, behind the queue.
func (r *Replica) meet(ctx context.Context, other, own string, times int) {
	log := r.log.With("database", own, "other", other)
	switch times {
	case 1:
		log.Warn("the queue was used with another database last: if a replica of that one still " +
			"runs, each gets a part of the messages, and neither is right")
	case 2:
		log.Error("two databases behind one queue: each gets a part of the messages, and neither " +
			"is right; give each replica service a queue of its own, then load or relay diff both")
	}
	if err := r.tables.NoteNeighbour(ctx, r.config.Queue, other); err != nil && ctx.Err() == nil {
		log.Warn("cannot note another database behind the queue", "error", err)
	}
}
