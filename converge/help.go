package converge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/transport"
)

// retryLetters asks a replica to try its dead letters of a model again.
type retryLetters struct {
	head

	Model string `json:"model"`
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
	err := a.requireOwn(model)
	if err != nil {
		return err
	}
	body, err := json.Marshal(retryLetters{head{Version: version, Kind: kindRetry}, model})
	if err == nil {
		err = a.tell(ctx, queue, model, kindRetry, body)
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

// hearRetry notes that dead letters are to be tried again, which run does.
func (r *Reporter) hearRetry(body []byte) error {
	var asked retryLetters
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
	select {
	case r.retries <- asked.Model:
	default: // as many wait as anybody asks for in a while
	}
	return nil
}

// retryLetters tries dead letters again when the master asks for it, and reports at once.
func (r *Reporter) retryLetters(ctx context.Context) {
	for {
		select {
		case model := <-r.retries:
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
			select {
			case r.hurry <- struct{}{}:
			default:
			}
		case <-ctx.Done():
			return
		}
	}
}
