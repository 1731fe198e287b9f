package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/registry"
)

// The outcomes of a verification.
const (
	VerifiedEqual    = string(registry.Equal)
	VerifiedRepaired = string(registry.Repaired)
	VerifiedDiffers  = string(registry.Differs)
	VerifiedUnproven = string(registry.Unproven)
)

// Verification is the last comparison of all keys of a model of a replica with the master. Its
// names in JSON are never changed, only added.
type Verification struct {
	Queue string `json:"queue"`
	Model string `json:"model"`
	// Outcome is equal, repaired, differs or unproven; empty before the first has ended.
	Outcome string `json:"outcome"`
	// Started and Ended are by the clock of the master's database.
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Keys were compared.
	Keys int64 `json:"keys"`
	// Found counts those that differed, also after the grace, by how.
	Found map[string]int64 `json:"found"`
	// EqualThrough says that what was committed at the master before then is with the replica, or
	// something newer of the same key; nil for never.
	EqualThrough *time.Time `json:"equal_through"`
}

// Verifications returns the last verification of each model that each replica has verified.
func (m *Master) Verifications(ctx context.Context) ([]Verification, error) {
	all, err := m.registry.Verifications(ctx)
	if err != nil {
		return nil, err
	}
	verifications := make([]Verification, len(all))
	for i, v := range all {
		verifications[i] = verification(v)
	}
	return verifications, nil
}

func verification(v registry.Verification) Verification {
	out := Verification{
		Queue: v.Queue, Model: v.Model, Found: map[string]int64{}, EqualThrough: timeOrNil(v.Through),
	}
	if last := v.Last; last != nil {
		out.Outcome, out.Keys = string(last.Outcome), last.Keys
		out.Started, out.Ended = last.Started, last.Ended
		for how, n := range last.Found {
			out.Found[how] = n
		}
	}
	return out
}

const (
	// answeredIn is how long a relay may take to begin a verification.
	answeredIn = time.Minute
	// startsIn is how long a replica may take until it has reported of all its models, at least, and
	// how much longer than a silent one it is waited for.
	startsIn = 3 * time.Second
	// verifyPoll is how often it is looked whether one has ended.
	verifyPoll = 200 * time.Millisecond
)

// Verify has models of a replica compared with the master now, by the relay that runs, and waits
// for the end of it. No models mean all that the replica wants to have verified.
func (m *Master) Verify(
	ctx context.Context, queue string, models []string,
) ([]Verification, error) {
	wanted, err := m.verifiable(ctx, queue, models)
	if err != nil {
		return nil, err
	}
	asked := make(map[string]time.Time, len(wanted))
	for _, model := range wanted {
		err := m.registry.Verify(ctx, queue, model, func(now time.Time, v *registry.Verification) bool {
			v.Asked, asked[model] = now, now
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	tick := time.NewTicker(verifyPoll)
	defer tick.Stop()
	for {
		ended, err := m.endedSince(ctx, queue, asked)
		if err != nil || len(ended) == len(wanted) {
			return ended, err
		}
		select {
		case <-ctx.Done():
			return ended, ctx.Err()
		case <-tick.C:
		}
	}
}

// verifiable are the models of a replica that can be verified. One that has just started reports of
// one model after the other: so all of them are waited for a little.
func (m *Master) verifiable(
	ctx context.Context, queue string, models []string,
) (able []string, err error) {
	tick := time.NewTicker(verifyPoll)
	defer tick.Stop()
	for began := time.Now(); ; {
		r, err := m.reporting(ctx, queue)
		if err != nil {
			return nil, err
		}
		able = verifies(r)
		wanted := models
		if len(wanted) == 0 {
			wanted = r.Models
		}
		lacking := slices.DeleteFunc(slices.Clone(wanted), func(id string) bool {
			return slices.Contains(able, id)
		})
		switch {
		case len(lacking) == 0:
			return wanted, nil
		case time.Since(began) < max(3*r.Instances[0].Pace, startsIn):
		case len(models) == 0 && len(able) > 0:
			return able, nil
		case len(able) == 0:
			return nil, fmt.Errorf("the replica %q verifies nothing: its version is too old, or it "+
				"is switched off there", queue)
		default:
			return nil, fmt.Errorf("the replica %q does not verify the model %q: it verifies %q",
				queue, lacking[0], able)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// reporting is a replica that reports.
func (m *Master) reporting(ctx context.Context, queue string) (r registry.Replica, err error) {
	all, now, err := m.registry.Replicas(ctx)
	if err != nil {
		return r, err
	}
	i := slices.IndexFunc(all, func(r registry.Replica) bool { return r.Queue == queue })
	if i < 0 {
		return r, fmt.Errorf("no replica %q is known: see relay replicas list", queue)
	}
	if all[i].SilentAt(now.Add(-startsIn)) {
		return r, fmt.Errorf("the replica %q is silent since %s: it compares nothing now", queue,
			all[i].Reported.Format(time.RFC3339))
	}
	return all[i], nil
}

// verifies are the models that a replica wants to have verified.
func verifies(r registry.Replica) (models []string) {
	for _, one := range r.Instances {
		var said struct {
			Models []struct {
				ID     string          `json:"id"`
				Verify json.RawMessage `json:"verify"`
			} `json:"models"`
		}
		if json.Unmarshal(one.Report, &said) != nil {
			continue
		}
		for _, m := range said.Models {
			if m.Verify != nil && slices.Contains(r.Models, m.ID) && !slices.Contains(models, m.ID) {
				models = append(models, m.ID)
			}
		}
	}
	slices.Sort(models)
	return models
}

// endedSince are the verifications that began when they were asked for, or later, and have ended.
func (m *Master) endedSince(
	ctx context.Context, queue string, asked map[string]time.Time,
) (ended []Verification, err error) {
	all, err := m.registry.Verifications(ctx)
	if err != nil {
		return nil, err
	}
	now, err := m.registry.Now(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		since, is := asked[v.Model]
		switch {
		case v.Queue != queue || !is:
		case v.Last != nil && !v.Last.Started.Before(since):
			ended = append(ended, verification(v))
		case v.Pass == nil && now.Sub(since) > answeredIn:
			return ended, fmt.Errorf("nobody began to verify %s in %s: does a relay run with "+
				"--config, and not with --silent, or an application that answers replicas?",
				v.Model, answeredIn)
		}
	}
	return ended, nil
}
