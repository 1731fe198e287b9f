package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Difference is what a diff found.
type Difference struct {
	Model string
	// Compared keys, of which so many differ.
	Compared, Differing int64
}

// DiffReplica reads what DiffMaster wrote and writes the keys that this replica lacks or has in another state: model, time
// and queue in the first line, then lines of keys. Nothing is written where there is nothing to read.
//
// A key that differs is looked at again after Options.Grace, and reported if it still does. A key that the replica has in a
// later revision differs only if that revision is older than the diff: else the master went on meanwhile.
func DiffReplica(ctx context.Context, rep *replica.Replica, r io.Reader, w io.Writer, o Options) (Difference, error) {
	in := newLines(r)
	line, ok, err := in.next()
	if err != nil || !ok {
		return Difference{}, err
	}
	h, err := parseHeader(line)
	if err != nil {
		return Difference{}, err
	}
	c, err := newComparer(ctx, rep, h, w, o)
	if err != nil {
		return Difference{Model: h.model}, err
	}
	err = c.run(ctx, in)
	return Difference{h.model, c.pace.done, c.differing}, err
}

type comparer struct {
	rep   *replica.Replica
	model string
	shape replica.Shape
	// speaks says that the ledger has what the table has, integers that its keys are.
	speaks, integers bool
	// names are the fields that the master hashed, nil without content.
	names []string
	// began is when a later revision of the replica is news to the master's listing.
	began     time.Time
	grace     time.Duration
	options   Options
	out       *out
	pace      *pace
	lines     int       // after the first, that were looked at once
	suspects  []suspect // in the order in which they were seen
	differing int64
}

func newComparer(ctx context.Context, rep *replica.Replica, h header, w io.Writer, o Options) (*comparer, error) {
	c := &comparer{
		rep: rep, model: h.model, began: h.at().Add(-o.Grace), grace: o.Grace, options: o, lines: o.SkipLines,
		out: newOut(w, header{h.model, h.time, rep.Queue()}), pace: o.pace(),
	}
	var err error
	if c.shape, err = rep.Model(h.model); err != nil {
		return nil, err
	}
	c.integers = outbox.HasIntegerKeys(c.shape.Table)
	content, announced := strings.CutPrefix(h.more, announcesContent)
	switch {
	case announced:
		c.names = strings.Fields(content)
	case h.more != "":
		return nil, fmt.Errorf("line 1: %w: %q is not known here", ErrNotADiff, h.more)
	default:
		if c.speaks, err = rep.LedgerSpeaks(ctx, h.model); err != nil {
			return nil, err
		}
	}
	c.out.opened = o.SkipLines > 0
	c.out.open()
	return c, nil
}

func (c *comparer) run(ctx context.Context, in *lines) error {
	reached := c.lines
	looked := ahead(ctx, func(ctx context.Context) iter.Seq2[looked, error] { return c.looks(ctx, in) })
	for l, err := range looked {
		if err != nil {
			return err
		}
		now := time.Now()
		c.lines++
		for _, claim := range l.differ {
			c.suspects = append(c.suspects, suspect{claim, now, c.lines})
		}
		if err := c.pace.add(ctx, l.compared); err != nil {
			return err
		}
		if err := c.settle(ctx, len(c.suspects) > maxSuspects); err != nil {
			return err
		}
		if n := c.settled(); n > reached {
			reached = n
			if err := errors.Join(c.out.Flush(), c.options.reached(n)); err != nil {
				return err
			}
		}
	}
	for len(c.suspects) > 0 {
		if err := c.settle(ctx, true); err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// looked is a line after the first look.
type looked struct {
	compared int
	differ   []claim
}

// looks takes the first look at each line; the next one is read meanwhile.
func (c *comparer) looks(ctx context.Context, in *lines) iter.Seq2[looked, error] {
	lines := ahead(ctx, func(context.Context) iter.Seq2[[]claim, error] { return c.claims(in) })
	return func(yield func(looked, error) bool) {
		for claims, err := range lines {
			l := looked{compared: len(claims)}
			if err == nil {
				l.differ, err = c.skim(ctx, claims)
			}
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

// claims reads the lines.
func (c *comparer) claims(in *lines) iter.Seq2[[]claim, error] {
	return func(yield func([]claim, error) bool) {
		skip := c.options.SkipLines
		for {
			line, ok, err := in.next()
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok {
				return
			}
			if skip--; skip >= 0 {
				continue
			}
			claims, err := parseClaims(string(line), c.names != nil)
			if err == nil {
				err = checkHashes(claims, c.names)
			}
			if err != nil {
				err = fmt.Errorf("line %d: %w", in.number, err)
			}
			if !yield(claims, err) || err != nil {
				return
			}
		}
	}
}

// skim looks at all keys of a line with one walk through the ledger, where that tells enough, and returns those that
// seem to differ. The order of texts in Go may be another one than the database's: then more keys seem to.
func (c *comparer) skim(ctx context.Context, claims []claim) ([]claim, error) {
	if !c.speaks || len(claims) == 0 {
		return c.look(ctx, claims)
	}
	first, last := claims[0].key, claims[0].key
	for _, claim := range claims[1:] {
		first, last = min(first, claim.key), max(last, claim.key)
	}
	most := len(claims) + len(claims)/4 + 1000 // more lie between where the keys are few of many
	kept, err := c.rep.Live(ctx, c.model, replica.Span{From: first, To: last, AnyOrder: true}, most, c.integers)
	if err != nil {
		return nil, err
	}
	if len(kept) == most {
		return c.look(ctx, claims)
	}
	same := make([]bool, len(claims))
	var index map[string]int // made where the two orders differ
	next := 0
	for _, k := range kept {
		if next >= len(claims) || claims[next].key != k.Key {
			if index == nil {
				index = indexOf(claims)
			}
			at, found := index[k.Key]
			if !found {
				continue
			}
			next = at
		}
		same[next] = claims[next].revision == k.Revision
		next++
	}
	var differ []claim
	for i, claim := range claims {
		if !same[i] {
			differ = append(differ, claim)
		}
	}
	return differ, nil
}

func indexOf(claims []claim) map[string]int {
	index := make(map[string]int, len(claims))
	for i, claim := range claims {
		index[claim.key] = i
	}
	return index
}

// look looks at each key: its ledger row and its row.
func (c *comparer) look(ctx context.Context, claims []claim) ([]claim, error) {
	pks := make([]json.RawMessage, len(claims))
	for i, claim := range claims {
		pks[i] = json.RawMessage(claim.pk)
	}
	kept, err := c.rep.Lookup(ctx, c.model, pks, c.names != nil)
	if err != nil {
		return nil, err
	}
	var differ []claim
	for i, claim := range claims {
		hashes := map[string]string(nil)
		if c.names != nil && kept[i].Row.IsValid() {
			if hashes, err = c.hashes(kept[i]); err != nil {
				return nil, err
			}
		}
		if c.differs(claim, kept[i], hashes) {
			differ = append(differ, claim)
		}
	}
	return differ, nil
}

// differs says that what is kept is neither what the master had nor newer.
func (c *comparer) differs(m claim, kept replica.Kept, hashes map[string]string) bool {
	switch {
	case kept.Revision > m.revision: // saved or deleted since the master was read
		return !kept.Updated.After(c.began)
	case !kept.Present || kept.Revision < m.revision:
		return true
	}
	for i, name := range c.names {
		master := m.hashes[i*hashLen : (i+1)*hashLen]
		if own, mapped := hashes[name]; mapped && master != noHash && master != own {
			return true
		}
	}
	return false
}

// hashes are those of the columns of a row, by what the master calls them.
func (c *comparer) hashes(kept replica.Kept) (map[string]string, error) {
	object, err := outbox.EncodeRow(c.shape.Table, kept.Row)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", kept.Key, err)
	}
	var columns map[string]json.RawMessage
	if err := json.Unmarshal(object, &columns); err != nil {
		return nil, fmt.Errorf("key %s: %w", kept.Key, err)
	}
	hashes := make(map[string]string, len(columns))
	for column, value := range columns {
		if field := c.shape.Fields[column]; field != "" {
			hashes[field] = string(appendHash(nil, value))
		}
	}
	return hashes, nil
}
