package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/transport"
)

// letters asks a replica to do something about its dead letters of a model: what, its kind says.
type letters struct {
	head

	Model string `json:"model"`
	// Before chooses those that were given up before then, by the clock of the replica's database.
	// Retrying is for all of them.
	Before time.Time `json:"before,omitzero"`
}

// SendStates sends what the master has of some keys to the queue of one replica, and returns how
// many it was. The replica's gate decides what that does; a key that the master neither has nor
// remembers is left out. It is for an operator: replicas ask by themselves.
func (a *Answerer) SendStates(
	ctx context.Context, queue, model string, keys []string,
) (sent int, err error) {
	if err := a.requireOwn(model); err != nil {
		return 0, err
	}
	if len(keys) > maxKeys {
		return 0, fmt.Errorf("converge: %d keys: want at most %d", len(keys), maxKeys)
	}
	states, err := a.box.States(ctx, model, keys)
	if err != nil {
		return 0, fmt.Errorf("converge: %w", err)
	}
	incarnation, err := a.outbox.Incarnation(ctx)
	if err != nil {
		return 0, fmt.Errorf("converge: %w", err)
	}
	var batch []transport.Outgoing
	for _, state := range states {
		if state.Data == nil && !state.Deleted {
			continue
		}
		out, err := stateMessage(state, model, queue, incarnation.ID)
		if err != nil {
			return 0, fmt.Errorf("converge: %w", err)
		}
		batch = append(batch, out)
	}
	if err := a.sendStates(ctx, batch); err != nil {
		return 0, fmt.Errorf("converge: %w", err)
	}
	return len(batch), nil
}

// RetryDeadLetters asks a replica to take its dead letters of a model through its gate once more,
// after what made them fail was mended. What it could not apply stays. It does not wait for that:
// reports say how many are left.
func (a *Answerer) RetryDeadLetters(ctx context.Context, queue, model string) error {
	return a.tellLetters(ctx, queue, letters{head{Version: version, Kind: kindRetry}, model,
		time.Time{}})
}

// PurgeDeadLetters has a replica delete for good its dead letters of a model that were given up
// before a time by the clock of its database: those that its reports told of, and none that came
// since. It does not wait for that: reports say how many are left. A replica of a version that does
// not know how ignores it.
func (a *Answerer) PurgeDeadLetters(
	ctx context.Context, queue, model string, before time.Time,
) error {
	if before.IsZero() {
		return errors.New("converge: no time up to which dead letters are deleted")
	}
	return a.tellLetters(ctx, queue, letters{head{Version: version, Kind: kindPurge}, model,
		before.UTC()})
}

func (a *Answerer) tellLetters(ctx context.Context, queue string, asked letters) error {
	if err := a.requireOwn(asked.Model); err != nil {
		return err
	}
	body, err := json.Marshal(asked)
	if err == nil {
		err = a.tell(ctx, queue, asked.Model, asked.Kind, body)
	}
	if err != nil {
		return fmt.Errorf("converge: %w", err)
	}
	return nil
}

func (a *Answerer) requireOwn(model string) error {
	if !slices.Contains(a.models, model) {
		return fmt.Errorf("converge: the model %.40q is not one of this master: want one of %q", model,
			a.models)
	}
	return nil
}

// hearLetters notes that something is to be done about dead letters, which run does.
func (r *Reporter) hearLetters(k kind, body []byte) error {
	var asked letters
	if err := json.Unmarshal(body, &asked); err != nil {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	if err := envelope.CheckModel(asked.Model); err != nil {
		return err
	}
	if _, err := r.replica.Model(asked.Model); err != nil {
		return err
	}
	if !r.replica.HasLedger() {
		return fmt.Errorf("dead letters of %s: this replica keeps none", asked.Model)
	}
	if k == kindPurge && asked.Before.IsZero() {
		return fmt.Errorf("dead letters of %s: nobody said up to when they are to be deleted",
			asked.Model)
	}
	select {
	case r.letters <- asked:
	default: // as many wait as anybody asks for in a while
	}
	return nil
}

// tendLetters does what the master asks for about dead letters, and reports at once.
func (r *Reporter) tendLetters(ctx context.Context) {
	for {
		select {
		case asked := <-r.letters:
			if asked.Kind == kindPurge {
				r.purgeLetters(ctx, asked)
			} else {
				r.retryLetters(ctx, asked.Model)
			}
			select {
			case r.hurry <- struct{}{}:
			default:
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reporter) retryLetters(ctx context.Context, model string) {
	left, gone := 0, 0
	err := r.replica.RetryDeadLetters(ctx, mirrored.DeadLetterFilter{Model: model},
		func(one mirrored.RetriedDeadLetter) {
			if one.Err != nil {
				left++
			} else {
				gone++
			}
		})
	if ctx.Err() != nil {
		return
	}
	r.log.Info("dead letters were tried again, because an operator of the master asked for it",
		"model", model, "done", gone, "left", left, "error", err)
}

func (r *Reporter) purgeLetters(ctx context.Context, asked letters) {
	n, err := r.replica.PurgeDeadLetters(ctx,
		mirrored.DeadLetterFilter{Model: asked.Model, Before: asked.Before})
	if ctx.Err() != nil {
		return
	}
	r.log.Warn("dead letters were deleted, because an operator of the master asked for it",
		"model", asked.Model, "before", asked.Before, "deleted", n, "error", err)
}
