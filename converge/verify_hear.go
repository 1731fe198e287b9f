package converge

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/transport"
)

// hearVerifying takes an answer of a replica.
func (a *Answerer) hearVerifying(ctx context.Context, h head, body []byte) error {
	if h.Kind == kindSettled {
		return hearAnswer(ctx, a, body, a.hearSettled)
	}
	return hearAnswer(ctx, a, body, a.hearCompared)
}

// answer is what a replica says to a question of the verification.
type answer interface {
	check() error
	of() (queue, model string)
}

// hearAnswer reads an answer, and has it taken if its verification was asked for.
func hearAnswer[A answer](
	ctx context.Context, a *Answerer, body []byte, take func(context.Context, target, A) error,
) error {
	said, err := readVerifying[A](body)
	if err == nil {
		err = said.check()
	}
	if err != nil {
		return err
	}
	t, err := a.targetOf(said.of())
	if err != nil {
		return err
	}
	return take(ctx, t, said)
}

func (a *Answerer) targetOf(queue, model string) (target, error) {
	if t, is := a.verified.Load([2]string{queue, model}); is {
		return t.(target), nil //nolint:forcetypeassert // nothing else is stored
	}
	return target{}, fmt.Errorf("a verification of the model %.40q, which was not asked for", model)
}

// hearCompared goes on with the ranges that differ.
func (a *Answerer) hearCompared(ctx context.Context, t target, c compared) error {
	var end *registry.Pass
	var questions []work
	err := a.registry.Verify(ctx, t.queue, t.model, func(
		now time.Time, v *registry.Verification,
	) bool {
		o, open := openOf(v, c.about)
		if !open {
			return false
		}
		p := v.Pass
		delete(p.Open, c.ID)
		p.Moved = now
		for _, d := range c.Differ {
			p.Open[partID(c.ID, d.Part)] = registry.Open{After: d.After, To: d.To, Keys: d.Keys}
		}
		if isStep(c.ID) {
			p.Keys += int64(o.Keys)
		}
		if end = a.endIfSettled(now, t, v); end == nil {
			questions, _ = a.plan(t, now, v)
		}
		return true
	})
	if err != nil {
		return err
	}
	return a.goOn(ctx, t, questions, end)
}

// endIfSettled ends a pass of which nothing is open.
func (a *Answerer) endIfSettled(now time.Time, t target, v *registry.Verification) *registry.Pass {
	p := v.Pass
	if !p.AllSent || len(p.Open) > 0 {
		return nil
	}
	a.end(now, t, v, outcomeOf(p))
	return p
}

// goOn asks what follows, and says what a pass that has ended found.
func (a *Answerer) goOn(
	ctx context.Context, t target, questions []work, ended *registry.Pass,
) error {
	if ended == nil {
		return a.ask(ctx, t, questions)
	}
	if ended.Outcome != registry.Equal {
		a.log.Warn("a replica differed from its master", "queue", t.queue, "model", t.model,
			"outcome", ended.Outcome, "found", ended.Found)
	}
	return a.sendAbsent(ctx, t, ended)
}

// hearSettled notes what was found, and sends what is to be sent of
// keys that the replica alone has.
func (a *Answerer) hearSettled(ctx context.Context, t target, s settled) error {
	gone, err := a.tellExtra(ctx, t, s)
	if err != nil {
		return err
	}
	var end *registry.Pass
	var questions []work
	err = a.registry.Verify(ctx, t.queue, t.model, func(now time.Time, v *registry.Verification) bool {
		if _, open := openOf(v, s.about); !open {
			return false
		}
		p := v.Pass
		delete(p.Open, s.ID)
		p.Moved = now
		for how, n := range s.Found {
			p.Found[how] += n
		}
		p.NoRepair = p.NoRepair || s.NoRepair
		p.Absents += int64(len(gone))
		p.Absent = append(p.Absent, gone[:min(len(gone), mostAbsent-len(p.Absent))]...)
		if end = a.endIfSettled(now, t, v); end == nil {
			questions, _ = a.plan(t, now, v)
		}
		return true
	})
	if err != nil {
		return err
	}
	return a.goOn(ctx, t, questions, end)
}

// tellExtra sends what the master knows of keys that the replica alone seems to have: a state, or
// its delete. It returns those that it does not know.
func (a *Answerer) tellExtra(
	ctx context.Context, t target, s settled,
) (gone []registry.Absent, err error) {
	if s.NoRepair || len(s.Extra)+len(s.Buried) == 0 {
		return nil, nil
	}
	v, err := a.verification(ctx, t)
	if err != nil {
		return nil, err
	}
	if _, open := openOf(&v, s.about); !open {
		return nil, nil // it was said before
	}
	incarnation, err := a.outbox.Incarnation(ctx)
	if err != nil {
		return nil, err
	}
	extra := slices.Concat(s.Extra, s.Buried)
	keys := make([]string, len(extra))
	for i, e := range extra {
		keys[i] = e.Key
	}
	states, err := a.box.States(ctx, t.model, keys)
	if err != nil {
		return nil, err
	}
	var batch []transport.Outgoing
	for i, state := range states {
		buried := i >= len(s.Extra)
		if state.Data == nil && (buried || !state.Deleted) {
			gone = append(gone, extra[i])
			continue
		}
		out, err := stateMessage(state, t.model, t.queue, incarnation.ID)
		if err != nil {
			return nil, err
		}
		batch = append(batch, out)
	}
	return gone, a.sendStates(ctx, batch)
}

// verification reads how far one has come.
func (a *Answerer) verification(
	ctx context.Context, t target,
) (found registry.Verification, err error) {
	err = a.registry.Verify(ctx, t.queue, t.model, func(_ time.Time, v *registry.Verification) bool {
		found = *v
		return false
	})
	return found, err
}

// sendAbsent says which keys the master neither has nor remembers, when all are known: whether the
// replica may delete them depends on how many there are.
func (a *Answerer) sendAbsent(ctx context.Context, t target, p *registry.Pass) error {
	for keys := range slices.Chunk(p.Absent, mostExtra) {
		out := absent{
			head: head{Version: version, Kind: kindAbsent}, Of: p.Absents, Keys: keys,
			about: about{Model: t.model, Pass: p.ID, ID: walkID, Sent: p.Ended},
		}
		if err := a.sendVerifying(ctx, t, kindAbsent, out); err != nil {
			return err
		}
	}
	return nil
}
