package converge

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// Fill says which models a replica asks its master for as a whole.
type Fill string

const (
	// NoFill asks for none: an operator fills the replica.
	NoFill Fill = "none"
	// IfEmpty asks, at the first start, for those that the replica has nothing of: neither a row, nor
	// a live key in its ledger. It is asked for once, by all processes together.
	IfEmpty Fill = "if-empty"
)

// askedBackfill asks for all of a model. The same id is the same request, however often it comes.
type askedBackfill struct {
	head

	Model string `json:"model"`
	ID    string `json:"id"`
}

// backfilled is what a master says behind the last row of a model.
type backfilled struct {
	head

	Model string `json:"model"`
	ID    string `json:"id"`
	Sent  int64  `json:"sent"`
}

func readAskedBackfill(body []byte) (r askedBackfill, err error) {
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errForeign, err)
	}
	if err := envelope.CheckModel(r.Model); err != nil {
		return r, fmt.Errorf("model: %w", err)
	}
	if !names.MatchString(r.ID) || len(r.ID) > maxID {
		return r, fmt.Errorf("id: %.40q, want at most %d characters", r.ID, maxID)
	}
	return r, nil
}

// maxID is how long the id of a backfill may be.
const maxID = 64

// Starts implements mirrored.Listener: what the replica has nothing of is
// only known before the first message.
func (r *Reporter) Starts(ctx context.Context) error {
	if r.config.Backfill != IfEmpty {
		return nil
	}
	return r.replica.WantBackfills(ctx)
}

const (
	// fillAgain is how soon a replica asks again for what has not come; each time it is twice as
	// long, up to fillAgainMost. Who does it already is not disturbed.
	fillAgain     = 2 * time.Second
	fillAgainMost = time.Minute
)

// wanted remembers when a backfill was asked for last.
type wanted struct {
	id    string
	due   time.Time
	pause time.Duration
}

// askBackfills asks for what the replica has nothing of, until it has come.
func (r *Reporter) askBackfills(ctx context.Context) {
	if r.config.Backfill != IfEmpty {
		return
	}
	select { // the master answers those that have reported
	case <-r.reported:
	case <-ctx.Done():
	}
	asked := map[string]wanted{}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for said, noted := false, false; ctx.Err() == nil; {
		left, err := 0, error(nil)
		if !noted { // else by Run of the replica, which may come later, or is not used
			err = r.Starts(ctx)
			noted = err == nil
		}
		if err == nil {
			left, err = r.askWanted(ctx, asked, time.Now())
		}
		if err != nil && ctx.Err() == nil && !said {
			r.log.Warn("cannot ask the master for a backfill; trying again", "error", err)
			said = true
		}
		if err == nil && left == 0 {
			return // it is never asked for again
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// askWanted asks for those that are due, and returns how many have not come yet.
func (r *Reporter) askWanted(
	ctx context.Context, asked map[string]wanted, now time.Time,
) (left int, err error) {
	open, err := r.replica.WantedBackfills(ctx)
	if err != nil {
		return 0, err
	}
	maps.DeleteFunc(asked, func(model string, _ wanted) bool {
		return !slices.ContainsFunc(open, func(b mirrored.Backfill) bool { return b.Model == model })
	})
	for _, b := range open {
		w, was := asked[b.Model]
		if !was {
			w = wanted{id: b.ID, pause: fillAgain}
		}
		if now.Before(w.due) || r.parentsComeFirst(b, open, asked) {
			continue
		}
		answered, err := r.askForAll(ctx, b)
		if err != nil {
			return len(open), err
		}
		if answered {
			if !was {
				r.log.Info("asked the master for all of a model, because nothing of it is here",
					"model", b.Model)
			}
			w.due, w.pause = now.Add(w.pause), min(2*w.pause, fillAgainMost)
			asked[b.Model] = w
		}
	}
	return len(open), nil
}

// parentsComeFirst says that rows which a model points to are on their way, so that its own would
// only wait for them.
func (r *Reporter) parentsComeFirst(
	b mirrored.Backfill, open []mirrored.Backfill, asked map[string]wanted,
) bool {
	return slices.ContainsFunc(open, func(other mirrored.Backfill) bool {
		_, comes := asked[other.Model]
		return comes && slices.Contains(b.Parents, other.Model)
	})
}

func (r *Reporter) askForAll(ctx context.Context, b mirrored.Backfill) (answered bool, err error) {
	body, err := json.Marshal(askedBackfill{
		head:  head{Version: version, Kind: kindBackfill, Queue: r.queue, Instance: r.config.Instance},
		Model: b.Model, ID: b.ID,
	})
	if err != nil {
		return false, fmt.Errorf("write a request: %w", err)
	}
	return r.say(ctx, kindBackfill, b.Model, body)
}

// hearBackfilled notes that all of a model has come: what the master says is heard behind that.
func (r *Reporter) hearBackfilled(ctx context.Context, body []byte) error {
	var b backfilled
	if err := json.Unmarshal(body, &b); err != nil {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	if !names.MatchString(b.ID) || len(b.ID) > maxID {
		return fmt.Errorf("%w: a backfill without an id", errForeign)
	}
	if !r.replica.HasLedger() {
		return nil
	}
	if err := r.replica.Backfilled(ctx, b.Model, b.ID); err != nil {
		return err
	}
	r.log.Info("all of a model has come", "model", b.Model, "sent", b.Sent)
	return nil
}
