package converge

import (
	"context"
	"encoding/json"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// How a key may differ, beside the causes for which a replica asks the master.
const (
	// extraKey is one that the replica alone has.
	extraKey = "extra"
	// aheadKey is one that the replica has newer than its master, which so has gone back in time. No
	// comparison repairs it.
	aheadKey = "ahead"
	// tooMany stands for more keys of the replica than are looked at at once.
	tooMany = "too_many"
	// unreadable is a key that cannot be looked at.
	unreadable = "unreadable"
)

// isRepaired says that what differs so is repaired.
func isRepaired(how string) bool {
	switch how {
	case string(mirrored.Missing), string(mirrored.Behind), string(mirrored.Content), extraKey:
		return true
	default:
		return false
	}
}

// suspects are keys that differed when they were first looked at: from what the master claimed, or
// because the replica alone has them.
type suspects struct {
	asked

	// seen is when they were looked at first, read when the master had read its claims.
	seen   time.Time
	read   time.Time
	claims []claim
	extra  []registry.Absent
	found  map[string]int64
}

// suspect has keys looked at again after the grace.
func (v *verifier) suspect(ctx context.Context, s suspects) error {
	known := 0
	for _, other := range v.suspects {
		if other.Pass == s.Pass && other.ID == s.ID && other.Model == s.Model {
			return nil // it was asked again before the grace was over
		}
		known += len(other.claims) + len(other.extra)
	}
	if known+len(s.claims)+len(s.extra) > maxSuspects {
		s.found[tooMany], s.claims, s.extra = int64(len(s.claims)+len(s.extra)), nil, nil
	}
	if len(s.claims)+len(s.extra) == 0 {
		return v.settle(ctx, s, nil)
	}
	v.suspects = append(v.suspects, s)
	return nil
}

// lookAgain looks again at keys whose grace is over. That is not before all is here which the
// master had committed when it made its claim: what is on its way is no difference.
func (v *verifier) lookAgain(ctx context.Context) error {
	for i := 0; i < len(v.suspects); i++ {
		s := v.suspects[i]
		if v.now().Sub(s.seen) < v.config.Grace {
			return nil
		}
		if !v.masters.through(s.Model).After(s.read) {
			if v.now().Sub(s.seen) < v.config.Grace+believed {
				continue
			}
			// Nobody knows what is on its way. The pass ends without a proof.
			v.suspects = append(v.suspects[:i:i], v.suspects[i+1:]...)
			i--
			continue
		}
		v.suspects = append(v.suspects[:i:i], v.suspects[i+1:]...)
		i--
		if err := v.judge(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// judge looks at suspects for the second time, and settles what they are.
func (v *verifier) judge(ctx context.Context, s suspects) error {
	out := settled{NoRepair: v.config.Verify != Repair || v.config.NoRequests}
	lacks, err := v.differing(ctx, s)
	if err != nil {
		return err
	}
	if err := v.judgeExtra(ctx, s, &out); err != nil {
		return err
	}
	if n := len(out.Extra) + len(out.Buried); n > 0 {
		s.found[extraKey] += int64(n)
		if !out.NoRepair {
			v.lacks.count(s.Model, extraKey, n)
		}
	}
	if !out.NoRepair {
		for _, l := range lacks {
			v.lacks.add(l, v.now())
		}
	}
	return v.settle(ctx, s, &out)
}

func (v *verifier) settle(ctx context.Context, s suspects, out *settled) error {
	if out == nil {
		out = &settled{}
	}
	out.head, out.about, out.Found = v.headOf(kindSettled), s.about, s.found
	return v.tellMaster(ctx, kindSettled, s.Model, out)
}

// since is when a change at the master is news to a claim of it.
func (s suspects) since(grace time.Duration) time.Time { return s.Sent.Add(-grace) }

// lookUp looks at keys. One that no row can have is unreadable, and none of the others is looked at
// then.
func (v *verifier) lookUp(
	ctx context.Context, s suspects, keys []string, rows bool,
) (kept []mirrored.Kept, err error) {
	shape, err := v.replica.Model(s.Model)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	pks := make([]json.RawMessage, len(keys))
	for i, key := range keys {
		pks[i] = stored.KeyJSON(shape.Key, key)
	}
	if kept, err = v.replica.LookupRows(ctx, s.Model, pks, rows); err == nil || ctx.Err() != nil {
		return kept, err
	}
	if len(keys) == 1 {
		v.log.Warn("a key cannot be compared", "model", s.Model, "key", keys[0], "error", err)
		s.found[unreadable]++
		return []mirrored.Kept{{Revision: unseen}}, nil
	}
	half := len(keys) / 2
	first, err := v.lookUp(ctx, s, keys[:half], rows)
	if err != nil {
		return nil, err
	}
	second, err := v.lookUp(ctx, s, keys[half:], rows)
	return append(first, second...), err
}

// unseen is the revision of a key that could not be looked at.
const unseen = -2

// differing counts the claims that the replica does not bear out, and says what it lacks.
func (v *verifier) differing(ctx context.Context, s suspects) (lacks []mirrored.Lack, err error) {
	keys := make([]string, len(s.claims))
	for i, c := range s.claims {
		keys[i] = c.Key
	}
	kept, err := v.lookUp(ctx, s, keys, s.Content)
	if err != nil {
		return nil, err
	}
	for i, c := range s.claims {
		lack := mirrored.Lack{Model: s.Model, Key: c.Key, Above: -1}
		switch k := kept[i]; {
		case k.Revision == unseen:
			continue
		case k.Revision > c.Revision:
			if !k.Updated.After(s.since(v.config.Grace)) {
				s.found[aheadKey]++
			}
			continue // else it was saved or deleted since the master looked
		case !k.Present || k.Revision < 0:
			lack.Cause = mirrored.Missing
		case k.Revision < c.Revision:
			lack.Cause, lack.Above = mirrored.Behind, k.Revision
		case s.Content && !v.sameContent(s.Model, c, k):
			lack.Cause, lack.Above = mirrored.Content, c.Revision-1
		default:
			continue
		}
		s.found[string(lack.Cause)]++
		lacks = append(lacks, lack)
	}
	return lacks, nil
}

// judgeExtra finds out which keys the replica has still alone.
func (v *verifier) judgeExtra(ctx context.Context, s suspects, out *settled) error {
	keys := make([]string, len(s.extra))
	for i, e := range s.extra {
		keys[i] = e.Key
	}
	kept, err := v.lookUp(ctx, s, keys, false)
	if err != nil {
		return err
	}
	for i, e := range s.extra {
		k := kept[i]
		if k.Revision == unseen || !k.Present || k.Revision != e.Revision ||
			k.Updated.After(s.since(v.config.Grace)) {
			continue // it is gone, or was written since
		}
		if k.Deleted {
			out.Buried = append(out.Buried, e)
		} else {
			out.Extra = append(out.Extra, e)
		}
	}
	return nil
}
