package converge

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/registry"
)

// askOne asks a question: its id says what it is about.
func (a *Answerer) askOne(ctx context.Context, t target, w work) error {
	switch {
	case w.id == walkID:
		return a.sendVerifying(ctx, t, kindWalk, a.askedOf(t, w, kindWalk))
	case isStep(w.id):
		return a.askStep(ctx, t, w)
	case w.open.Keys <= fewKeys:
		return a.askListing(ctx, t, w)
	default:
		return a.askParts(ctx, t, w)
	}
}

func (a *Answerer) askedOf(t target, w work, k kind) asked {
	return asked{
		head: head{Version: version, Kind: k}, Urgent: w.pass.Urgent, Content: t.setting.Fields != nil,
		about: about{Model: t.model, Pass: w.pass.ID, ID: w.id, Sent: w.open.Sent},
	}
}

func (a *Answerer) sendVerifying(ctx context.Context, t target, k kind, what any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("write a question: %w", err)
	}
	return a.tell(ctx, t.queue, t.model, k, body)
}

// askStep asks about the next ranges of all, and notes how far they go.
func (a *Answerer) askStep(ctx context.Context, t target, w work) error {
	began := time.Now()
	if w.id == stepID(0) {
		var err error
		if w.pass.Speaks, err = a.prepare(ctx, t); err != nil {
			return err
		}
	}
	out := ranges{asked: a.askedOf(t, w, kindRanges), After: w.open.After}
	to, keys, err := a.measure(ctx, t, w, &out)
	if err != nil {
		return err
	}
	rest := resting(time.Since(began))
	var still bool
	err = a.registry.Verify(ctx, t.queue, t.model, func(
		now time.Time, v *registry.Verification,
	) bool {
		o, open := openOf(v, out.about)
		if still = open; !open {
			return false
		}
		if !o.Measured {
			v.Pass.Position, v.Pass.AllSent = to, to == ""
		}
		o.To, o.Keys, o.Measured = to, keys, true
		v.Pass.Open[w.id], v.Pass.Speaks, v.Pass.Due = o, w.pass.Speaks, now.Add(rest)
		return true
	})
	if err != nil || !still {
		return err
	}
	return a.sendVerifying(ctx, t, kindRanges, out)
}

// measure makes the digests of a step, and says how far it goes. One that was measured before goes
// as far as it did, so its last part has what is left.
func (a *Answerer) measure(
	ctx context.Context, t target, w work, out *ranges,
) (to string, keys int, err error) {
	p := a.portion(t, w)
	for len(out.Parts) < stepParts {
		if p.Limit = partKeys; w.open.Measured && len(out.Parts) == stepParts-1 {
			p.Limit = 0
		}
		d, err := a.box.Digest(ctx, t.model, p)
		if err != nil {
			return "", 0, err
		}
		if to = d.Last; !d.More {
			to = w.open.To
		}
		keys += d.Keys
		out.Parts = append(out.Parts, part{to, d.Keys, d.Sum})
		if p.After = d.Last; !d.More {
			break
		}
	}
	return to, keys, nil
}

// prepare gives rows without a ledger row theirs, and says whether the ledger speaks for the table.
func (a *Answerer) prepare(ctx context.Context, t target) (speaks bool, err error) {
	if speaks, err = a.box.Speaks(ctx, t.model); err != nil || speaks {
		return speaks, err
	}
	cannotBeSent := func(json.RawMessage, error) {} // nothing is compared of it
	n, err := a.box.AdoptUnknown(ctx, t.model, cannotBeSent)
	if n > 0 {
		a.log.Info("rows that the ledger did not know are in it now, with revision 0: they are older "+
			"than cqrsync, or were written past it", "model", t.model, "rows", n)
	}
	return false, err
}

// portion is what the ledger is asked for.
func (a *Answerer) portion(t target, w work) boxed.Portion {
	return boxed.Portion{
		After: w.open.After, To: w.open.To, Speaks: w.pass.Speaks, Content: contentOf(t.setting.Fields),
	}
}

// askParts asks about the parts of a range that differs. The last one has what is left, so that all
// of it is compared, however many keys there are by now.
func (a *Answerer) askParts(ctx context.Context, t target, w work) error {
	out := ranges{asked: a.askedOf(t, w, kindRanges), After: w.open.After}
	p := a.portion(t, w)
	size := max(w.open.Keys/splitParts+1, fewKeys/2)
	for {
		if p.Limit = size; len(out.Parts) == splitParts-1 {
			p.Limit = 0
		}
		d, err := a.box.Digest(ctx, t.model, p)
		if err != nil {
			return err
		}
		to := d.Last
		if !d.More {
			to = w.open.To
		}
		out.Parts = append(out.Parts, part{to, d.Keys, d.Sum})
		if p.After = d.Last; !d.More {
			return a.sendVerifying(ctx, t, kindRanges, out)
		}
	}
}

// askListing says what the master has in a range that differs.
func (a *Answerer) askListing(ctx context.Context, t target, w work) error {
	p := a.portion(t, w)
	p.Limit = mostListed
	claims, _, more, err := a.box.Claims(ctx, t.model, p)
	if err != nil {
		return err
	}
	if more { // it has grown
		w.open.Keys = splitParts * mostListed
		return a.askParts(ctx, t, w)
	}
	out := listing{
		asked: a.askedOf(t, w, kindListing), After: w.open.After, To: w.open.To,
		Claims: make([]claim, len(claims)),
	}
	for i, c := range claims {
		out.Claims[i] = claim(c)
	}
	if out.Read, err = a.registry.Now(ctx); err != nil {
		return err
	}
	return a.sendVerifying(ctx, t, kindListing, out)
}

// openOf is the question that an answer is about, if it is open.
func openOf(v *registry.Verification, about about) (registry.Open, bool) {
	if v.Pass == nil || v.Pass.ID != about.Pass {
		return registry.Open{}, false
	}
	o, open := v.Pass.Open[about.ID]
	// How far a step goes is said anew each time that it is asked. The others stay what they are.
	if isStep(about.ID) && !o.Sent.Equal(about.Sent) {
		open = false
	}
	return o, open
}
