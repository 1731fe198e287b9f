package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// Listen has a listener told of what the master says and of what is missing here. It is for before
// the first message.
func (r inspected) Listen(l mirrored.Listener) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return errors.New("replica: it runs already: make the reporter before Run")
	}
	r.listener = l
	return nil
}

// HasLedger says that there is a database.
func (r inspected) HasLedger() bool { return r.tables != nil }

// Conditions returns how things stand with each model, in the order of registration.
func (r inspected) Conditions(ctx context.Context) ([]mirrored.Condition, error) {
	waiting, err := r.Waiting(ctx)
	if err != nil {
		return nil, err
	}
	dead := map[string]int64{}
	if r.tables != nil {
		if dead, err = r.tables.CountDeadLetters(ctx, r.config.Queue); err != nil {
			return nil, fmt.Errorf("replica: %w", err)
		}
	}
	all := make([]mirrored.Condition, len(r.order))
	for i, b := range r.order {
		all[i] = mirrored.Condition{
			Model: b.model, Applied: b.applied.Load(), Waiting: waiting[b.model], DeadLetters: dead[b.model],
		}
		if all[i].Stuck, err = r.stuck(ctx, all[i]); err != nil {
			return nil, err
		}
		if micros := b.newest.Load(); micros != 0 {
			all[i].Newest = time.UnixMicro(micros).UTC()
		}
	}
	return all, nil
}

// moved notes that a message changed the ledger.
func (b *binding) moved(updated time.Time) {
	b.applied.Add(1)
	if updated.IsZero() {
		return
	}
	for now := updated.UnixMicro(); ; {
		newest := b.newest.Load()
		if newest >= now || b.newest.CompareAndSwap(newest, now) {
			return
		}
	}
}
