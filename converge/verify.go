package converge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cqrsync/cqrsync/internal/registry"
)

// restPart is how much longer a step rests than it took: so it needs 5 % of a core at most. Tests
// rest less.
var restPart = 19

func resting(took time.Duration) time.Duration { return time.Duration(restPart) * took }

const (
	// verifyLook is how often it is looked whether something of a verification is due.
	verifyLook = time.Second
	// askAtOnce is how many questions are asked without an answer.
	askAtOnce = 32
	// maxOpen is how many questions may be open before the next step.
	maxOpen = 64
	// stepsAtOnce is how many steps are asked without an answer: so the master reads the next one
	// while the replica reads this one.
	stepsAtOnce = 2
	// againSoon is how often a pass that found something is followed by one soon.
	againSoon = 5
	// givenUp is how long a pass waits for answers at least.
	givenUp = time.Minute
	// hiccup is how much longer than a silent one a replica is asked.
	hiccup = 3 * time.Second
	// walkID is that of the question what rows the replica's ledger does not know.
	walkID = "walk"
	// mostAbsent bounds what is remembered of keys that the replica alone has.
	mostAbsent = 10_000
)

// target is a model of a replica that wants to be verified.
type target struct {
	queue, model string
	setting      verifySetting
}

// work is a question that is to be asked.
type work struct {
	pass registry.Pass
	id   string
	open registry.Open
}

// verifyAll asks what is due, of all replicas.
func (a *Answerer) verifyAll(ctx context.Context) error {
	replicas, now, err := a.registry.Replicas(ctx)
	if err != nil {
		return err
	}
	all, err := a.registry.Verifications(ctx)
	if err != nil {
		return err
	}
	states := make(map[[2]string]registry.Verification, len(all))
	for _, v := range all {
		states[[2]string{v.Queue, v.Model}] = v
	}
	var errs []error
	for _, r := range replicas {
		for _, t := range a.targets(r) {
			a.verified.Store([2]string{t.queue, t.model}, t)
			v := states[[2]string{t.queue, t.model}]
			if r.SilentAt(now.Add(-hiccup)) {
				continue
			}
			if _, changed := a.plan(t, now, &v); changed {
				errs = append(errs, a.advance(ctx, t))
			}
		}
	}
	return errors.Join(errs...)
}

// targets are the models of a replica that want to be verified, as its newest report says.
func (a *Answerer) targets(r registry.Replica) (targets []target) {
	own := a.own(r.Models)
	for _, one := range r.Instances {
		var said struct {
			Models []struct {
				ID     string         `json:"id"`
				Verify *verifySetting `json:"verify"`
			} `json:"models"`
		}
		if json.Unmarshal(one.Report, &said) != nil {
			continue
		}
		for _, m := range said.Models {
			if i := slices.Index(own, m.ID); i >= 0 {
				own = slices.Delete(own, i, i+1) // an older report of another process says nothing of it
				if m.Verify != nil {
					targets = append(targets, target{r.Queue, m.ID, *m.Verify})
				}
			}
		}
	}
	return targets
}

// advance asks what is due of one.
func (a *Answerer) advance(ctx context.Context, t target) error {
	var questions []work
	err := a.registry.Verify(ctx, t.queue, t.model, func(
		now time.Time, v *registry.Verification,
	) (changed bool) {
		questions, changed = a.plan(t, now, v)
		return changed
	})
	if err != nil {
		return err
	}
	return a.ask(ctx, t, questions)
}

// ask asks questions. What is due behind a step is asked, too, while the replica looks at that.
func (a *Answerer) ask(ctx context.Context, t target, questions []work) error {
	var errs []error
	stepped := false
	// The walk comes first: so the replica looks at its table while the master looks at its own.
	slices.SortStableFunc(questions, func(x, y work) int { return cmp.Compare(y.id, x.id) })
	for _, w := range questions {
		stepped = stepped || isStep(w.id)
		if err := a.askOne(ctx, t, w); err != nil {
			errs = append(errs, fmt.Errorf("verify %s with the replica %q: %w", t.model, t.queue, err))
		}
	}
	if stepped && len(errs) == 0 {
		return a.advance(ctx, t)
	}
	return errors.Join(errs...)
}

// plan says what is to be asked now, and notes it.
func (a *Answerer) plan(
	t target, now time.Time, v *registry.Verification,
) (questions []work, changed bool) {
	if v.Pass == nil && !a.begin(now, v) {
		return nil, false
	}
	p := v.Pass
	if !p.Urgent && v.Asked.After(p.Started) {
		p.Urgent, changed = true, true // somebody waits for the one after this
	}
	if now.Sub(p.Moved) > givenUp+10*a.patience(t, 0) {
		a.end(now, t, v, registry.Unproven)
		return nil, true
	}
	for id, o := range p.Open {
		if len(questions) == askAtOnce {
			return questions, true // the others have their turn with the next answer
		}
		if o.Sent.IsZero() || quietFor(p, o, now) > a.patience(t, o.Tries) {
			if !o.Sent.IsZero() {
				o.Tries++
			}
			o.Sent = now
			p.Open[id] = o
			questions = append(questions, work{*p, id, o})
		}
	}
	due := p.Urgent || !now.Before(p.Due)
	if due && !p.AllSent && len(p.Open) <= maxOpen && mayStep(p) {
		p.Step++
		o := registry.Open{After: p.Position, Sent: now}
		p.Open[stepID(p.Step)] = o
		questions = append(questions, work{*p, stepID(p.Step), o})
	}
	return questions, changed || len(questions) > 0
}

// mayStep says that another step may be asked: not too many are open, and of each it is known how
// far it goes.
func mayStep(p *registry.Pass) bool {
	steps := 0
	for id, o := range p.Open {
		if isStep(id) {
			if steps++; !o.Measured {
				return false
			}
		}
	}
	return steps < stepsAtOnce
}

// quietFor is for how long nothing has come back since a question was asked. A replica that answers
// others has this one still before it: to ask again would have it do all twice.
func quietFor(p *registry.Pass, o registry.Open, now time.Time) time.Duration {
	if p.Moved.After(o.Sent) {
		return now.Sub(p.Moved)
	}
	return now.Sub(o.Sent)
}

// patience is how long an answer may take, with the grace and what came before it in the queue.
func (a *Answerer) patience(t target, tries int) time.Duration {
	return (3*a.config.Pace + 3*t.setting.grace()) << min(tries, 6)
}

// begin begins a pass, if one is due.
func (a *Answerer) begin(now time.Time, v *registry.Verification) bool {
	var last time.Time
	if v.Last != nil {
		last = v.Last.Started
	}
	asked := v.Asked.After(last)
	if !asked && (now.Before(v.Next) || a.config.VerifyEvery < 0) {
		return false
	}
	v.Pass = &registry.Pass{
		ID: uuid.NewString(), Started: now, Moved: now, Urgent: asked,
		Open: map[string]registry.Open{walkID: {}, stepID(0): {}}, Found: map[string]int64{},
	}
	return true
}

// end ends a pass, and says when the next one is due.
func (a *Answerer) end(
	now time.Time, t target, v *registry.Verification, outcome registry.Outcome,
) {
	p := v.Pass
	p.Ended, p.Outcome, p.Open = now, outcome, nil
	v.Last, v.Pass = p, nil
	every := max(a.config.VerifyEvery, 0)
	switch {
	case outcome == registry.Equal:
		v.Through, v.Again, v.Next = p.Started, 0, p.Started.Add(every)
	case v.Again < againSoon:
		v.Again++
		v.Next = now.Add(min(every, a.config.Pace+2*t.setting.grace()))
	default:
		v.Next = now.Add(every)
	}
}

// outcomeOf says how a pass ends of which nothing is open any more. Whether keys are deleted that
// the replica alone has is for the replica to decide.
func outcomeOf(p *registry.Pass) registry.Outcome {
	outcome := registry.Equal
	if p.Absents > 0 {
		return registry.Differs
	}
	for how, n := range p.Found {
		if n == 0 {
			continue
		}
		if p.NoRepair || !isRepaired(how) {
			return registry.Differs
		}
		outcome = registry.Repaired
	}
	return outcome
}

// stepID is that of the ranges of a step; those of what they are divided into begin with it.
func stepID(step int) string { return strconv.Itoa(step) }

func partID(id string, part int) string { return id + "." + strconv.Itoa(part) }

func isStep(id string) bool { return id != walkID && !strings.Contains(id, ".") }
