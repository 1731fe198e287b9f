package converge

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/registry"
)

// verified is how the last comparison of a model of the replica ended. Each heartbeat says it
// again, so that it arrives whatever is lost.
type verified struct {
	Model   string           `json:"model"`
	Outcome string           `json:"outcome"`
	Through time.Time        `json:"through,omitzero"`
	Ended   time.Time        `json:"ended"`
	Found   map[string]int64 `json:"found,omitempty"`
}

// verifiedOf are those of some models of a queue.
func verifiedOf(all []registry.Verification, queue string, models []string) (some []verified) {
	for _, v := range all {
		if v.Queue != queue || v.Last == nil || !slices.Contains(models, v.Model) {
			continue
		}
		some = append(some, verified{
			Model: v.Model, Outcome: string(v.Last.Outcome), Through: v.Through, Ended: v.Last.Ended,
			Found: v.Last.Found,
		})
	}
	return some
}

const (
	maxOutcomeBytes = 20
	maxFoundKinds   = 20
)

// noted is what the replica has written down of it. It is safe for concurrent use.
type noted struct {
	mu      sync.Mutex
	byModel map[string]verified
}

// is says that just this was noted.
func (n *noted) is(v verified) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, known := n.byModel[v.Model]
	return known && last.Outcome == v.Outcome && last.Through.Equal(v.Through) &&
		last.Ended.Equal(v.Ended) && maps.Equal(last.Found, v.Found)
}

func (n *noted) add(v verified) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byModel == nil {
		n.byModel = map[string]verified{}
	}
	n.byModel[v.Model] = v
}

// note writes down what is new of what a master says.
func (r *Reporter) note(ctx context.Context, beat heartbeat) error {
	if !r.replica.HasLedger() {
		return nil
	}
	var errs []error
	for _, v := range beat.Verified {
		if !slices.Contains(beat.Models, v.Model) || v.Outcome == "" || v.Ended.IsZero() ||
			len(v.Outcome) > maxOutcomeBytes || len(v.Found) > maxFoundKinds {
			errs = append(errs, errors.New("a heartbeat with a verification that was none"))
			continue
		}
		if r.noted.is(v) {
			continue
		}
		err := r.replica.Verified(ctx, mirrored.Verification(v))
		if err == nil {
			r.noted.add(v)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
