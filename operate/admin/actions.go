package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/registry"
)

// Action is something that a person did: the audit line. Its names in JSON are never changed.
type Action struct {
	ID int64 `json:"id"`
	// Done is when, by the clock of the master's database.
	Done time.Time `json:"done"`
	Who  string    `json:"who"`
	// Action is what, and Outcome how it ended: begun where nobody lived to say it.
	Action  string `json:"action"`
	Outcome string `json:"outcome"`
}

// Note has do done, and keeps who did what, when, and how it ended, in outbox_actions. Where that
// cannot be kept, nothing is done. An error of do is its outcome.
func (m *Master) Note(
	ctx context.Context, who, action string, do func(context.Context) (outcome string, err error),
) (Action, error) {
	id, err := m.registry.Begin(ctx, who, action)
	if err != nil {
		return Action{}, err
	}
	outcome, err := do(ctx)
	if err != nil {
		outcome = "failed: " + err.Error()
	}
	// who asked may have gone, and it was done all the same
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return Action{ID: id, Who: who, Action: action, Outcome: outcome},
		errors.Join(err, m.registry.End(ctx, id, outcome))
}

// Actions returns the latest actions, newest first.
func (m *Master) Actions(ctx context.Context, limit int) ([]Action, error) {
	return actionsOf(m.registry.Actions(ctx, 0, limit))
}

// Action returns one action; known is false where there is none.
func (m *Master) Action(ctx context.Context, id int64) (a Action, known bool, err error) {
	if id <= 0 {
		return a, false, nil
	}
	all, err := actionsOf(m.registry.Actions(ctx, id, 1))
	if err != nil || len(all) == 0 {
		return a, false, err
	}
	return all[0], true, nil
}

func actionsOf(found []registry.Action, err error) ([]Action, error) {
	all := make([]Action, len(found))
	for i, a := range found {
		all[i] = Action(a)
	}
	return all, err
}

// RetryStuck has a group tried again at once: what waits, by a live relay; what was given up goes
// back into the outbox, unless something newer of its key was sent. kept counts those that stay.
func (m *Master) RetryStuck(ctx context.Context, g StuckGroup) (retried, kept int, err error) {
	if !g.Dead {
		keys := make([]queue.Key, len(g.all))
		for i, k := range g.all {
			keys[i] = queue.Key{Model: k.Model, Key: k.Key}
		}
		return len(keys), 0, m.queue.MakeDue(ctx, keys)
	}
	if len(g.all) == 0 {
		return 0, 0, nil
	}
	err = m.RetryDeadLetters(ctx, DeadLetterFilter{IDs: g.ids()}, func(r RetriedDeadLetter) error {
		if r.Err != nil {
			kept++
		} else {
			retried++
		}
		return nil
	})
	return retried, kept, err
}

// PurgeStuck forgets the dead letters of a group for good, and returns how many.
func (m *Master) PurgeStuck(ctx context.Context, g StuckGroup) (int64, error) {
	if !g.Dead || len(g.all) == 0 {
		return 0, nil // what waits is the newest state of its key: it is not for purging
	}
	return m.PurgeDeadLetters(ctx, DeadLetterFilter{IDs: g.ids()})
}

func (g StuckGroup) ids() []int64 {
	ids := make([]int64, len(g.all))
	for i, k := range g.all {
		ids[i] = k.ID
	}
	return ids
}

// AskVerify has a replica compared now, by whoever answers replicas, and does not wait for it. No
// models are all of them.
func (m *Master) AskVerify(ctx context.Context, queue string, models []string) error {
	r, err := m.reporting(ctx, queue)
	if err != nil {
		return err
	}
	if len(models) == 0 {
		models = verifies(r)
	}
	if len(models) == 0 {
		return fmt.Errorf("the replica %q verifies nothing: its version is too old, or it is switched "+
			"off there", queue)
	}
	for _, model := range models {
		err := m.registry.Verify(ctx, queue, model, func(now time.Time, v *registry.Verification) bool {
			v.Asked = now
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}
