package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"

	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// looked is a line after the first look.
type looked struct {
	compared int
	differ   []claim
}

// looks takes the first look at each line; the next one is read meanwhile.
func (c *comparer) looks(ctx context.Context, in *lines) iter.Seq2[looked, error] {
	lines := prefetch(ctx, func(context.Context) iter.Seq2[numbered, error] { return c.lines(in) })
	return func(yield func(looked, error) bool) {
		for line, err := range lines {
			var l looked
			if err == nil {
				l, err = c.skim(ctx, line)
			}
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

// numbered is a line with its number.
type numbered struct {
	number int
	text   string
}

// lines reads the lines that are not to be skipped.
func (c *comparer) lines(in *lines) iter.Seq2[numbered, error] {
	return func(yield func(numbered, error) bool) {
		for skip := c.options.SkipLines; ; skip-- {
			line, ok, err := in.next()
			if err == nil && !ok {
				return
			}
			if err == nil && skip > 0 {
				continue
			}
			if !yield(numbered{in.number, string(line)}, err) || err != nil {
				return
			}
		}
	}
}

// skim takes the cheapest look at a line that tells enough.
func (c *comparer) skim(ctx context.Context, line numbered) (looked, error) {
	var said mirrored.Pairs
	if c.repeats {
		wanted := pairsOf(line.text)
		var err error
		if said, err = c.says(ctx, wanted); err != nil || said == wanted && said.Count > 0 {
			return looked{compared: said.Count}, err
		}
	}
	claims, err := c.parse(line)
	if err != nil {
		return looked{}, err
	}
	// a ledger may hold a key that is no integer all the same
	if kept, err := split(said); err == nil {
		if differ := unlike(claims, kept); len(differ) <= len(claims)/100 {
			// rows in between moved others out of sight: the second look sees them
			return looked{len(claims), differ}, nil
		}
	}
	differ, err := c.walk(ctx, claims)
	if len(differ) == 0 {
		c.repeats = false // the same in other words: the order of a master that is not ours
	}
	return looked{len(claims), differ}, err
}

// pairsOf is a line without its outer brackets, if it may be a line of integers; nothing of it is
// taken apart.
func pairsOf(line string) mirrored.Pairs {
	text, opened := strings.CutPrefix(line, "[[")
	text, closed := strings.CutSuffix(text, "]]")
	if first, _, _ := strings.Cut(text, ","); !opened || !closed || !isInteger(first) {
		return mirrored.Pairs{}
	}
	return mirrored.Pairs{Text: text, Count: strings.Count(text, "],[") + 1}
}

// says returns as much as is wanted of what the ledger has, from the same first key on.
func (c *comparer) says(ctx context.Context, wanted mirrored.Pairs) (mirrored.Pairs, error) {
	if wanted.Count == 0 {
		return wanted, nil
	}
	first, _, _ := strings.Cut(wanted.Text, ",")
	return mirrored.Of(c.rep).Pairs(ctx, c.model, mirrored.Span{From: first}, wanted.Count)
}

// split takes pairs apart.
func split(pairs mirrored.Pairs) ([]mirrored.KeyRevision, error) {
	claims, err := parseClaims("[["+pairs.Text+"]]", false)
	kept := make([]mirrored.KeyRevision, len(claims))
	for i, c := range claims {
		kept[i] = mirrored.KeyRevision{Key: c.key, Revision: c.revision}
	}
	return kept, err
}

func (c *comparer) parse(line numbered) ([]claim, error) {
	claims, err := parseClaims(line.text, c.names != nil)
	if err == nil {
		err = checkHashes(claims, c.names)
	}
	if err == nil && c.columns != nil && len(claims) > 0 {
		err = c.columns.sameKey(claims[0])
		for _, claim := range claims {
			c.columns.note(claim)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", line.number, err)
	}
	return claims, nil
}

// walk looks at all keys of a line with one walk through the ledger, where that tells enough, and
// returns those that seem to differ. The order of texts in Go may be another one than the
// database's: then more keys seem to.
func (c *comparer) walk(ctx context.Context, claims []claim) ([]claim, error) {
	if !c.speaks || len(claims) == 0 {
		return c.look(ctx, claims)
	}
	first, last := claims[0].key, claims[0].key
	for _, claim := range claims[1:] {
		first, last = min(first, claim.key), max(last, claim.key)
	}
	most := len(claims) + len(claims)/4 + 1000 // more lie between where the keys are few of many
	kept, err := mirrored.Of(c.rep).Live(ctx, c.model, mirrored.Span{From: first, To: last,
		AnyOrder: true}, most)
	if err != nil {
		return nil, err
	}
	if len(kept) == most {
		return c.look(ctx, claims)
	}
	return unlike(claims, kept), nil
}

// unlike are the claims that the ledger does not bear out.
func unlike(claims []claim, kept []mirrored.KeyRevision) (differ []claim) {
	revisions := make(map[string]int64, len(kept))
	for _, k := range kept {
		revisions[k.Key] = k.Revision
	}
	for _, claim := range claims {
		if revision, live := revisions[claim.key]; !live || revision != claim.revision {
			differ = append(differ, claim)
		}
	}
	return differ
}

// look looks at each key: its ledger row and its row.
func (c *comparer) look(ctx context.Context, claims []claim) ([]claim, error) {
	pks := make([]json.RawMessage, len(claims))
	for i, claim := range claims {
		pks[i] = json.RawMessage(claim.pk)
	}
	kept, err := mirrored.Of(c.rep).Lookup(ctx, c.model, pks, c.names != nil)
	if err != nil {
		return c.lookInParts(ctx, claims, err)
	}
	var differ []claim
	for i, claim := range claims {
		differs, err := c.differs(claim, kept[i])
		if err != nil {
			return nil, err
		}
		if differs {
			claim.ahead = kept[i].Revision > claim.revision
			differ = append(differ, claim)
		}
	}
	return differ, nil
}

// lookInParts looks at halves where a row of the replica cannot be read, an infinite time for
// example. That one differs from whatever the master sent.
func (c *comparer) lookInParts(
	ctx context.Context, claims []claim, because error,
) ([]claim, error) {
	if c.names == nil || ctx.Err() != nil {
		return nil, because
	}
	pks := make([]json.RawMessage, len(claims))
	for i, claim := range claims {
		pks[i] = json.RawMessage(claim.pk)
	}
	if _, err := mirrored.Of(c.rep).Lookup(ctx, c.model, pks, false); err != nil {
		return nil, because // it is not what the rows hold
	}
	if len(claims) == 1 {
		return claims, nil
	}
	half := len(claims) / 2
	differ, err := c.look(ctx, claims[:half])
	if err != nil {
		return nil, err
	}
	more, err := c.look(ctx, claims[half:])
	return append(differ, more...), err
}
