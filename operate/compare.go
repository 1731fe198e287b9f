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
	// Ahead of the differing keys are newer on the replica than on the master: the master went back to an earlier state.
	// DiffSync forces them.
	Ahead int64
}

// DiffReplica reads what DiffMaster wrote and writes the keys that this replica lacks or has in another state: model, time
// and queue in the first line, then lines of keys. Nothing is written where there is nothing to read.
//
// A key that differs is looked at again after Options.Grace, and reported if it still does. A key that the replica has in a
// later revision differs only if that revision is older than the diff: else the master went on meanwhile.
func DiffReplica(ctx context.Context, rep *replica.Replica, r io.Reader, w io.Writer, o Options) (Difference, error) {
	in := newLines(r)
	h, ok, err := in.header()
	if err != nil || !ok {
		return Difference{}, err
	}
	c, err := newComparer(ctx, rep, h, w, o)
	if err != nil {
		return Difference{Model: h.model}, err
	}
	err = c.run(ctx, in)
	return Difference{h.model, c.pace.done, c.differing, c.ahead}, err
}

type comparer struct {
	rep   *replica.Replica
	model string
	shape replica.Shape
	// speaks says that the ledger has what the table has, repeats that it may have whole lines word for word.
	speaks, repeats bool
	// names are the fields that the master hashed, nil without content.
	names []string
	// began is when a later revision of the replica is news to the master's listing. Both are by the master's clock.
	began     time.Time
	options   Options
	out       *out
	pace      *pace
	looked    int       // lines after the first, that were looked at once
	suspects  []suspect // in the order in which they were seen
	differing int64
	ahead     int64
}

func newComparer(ctx context.Context, rep *replica.Replica, h header, w io.Writer, o Options) (*comparer, error) {
	c := &comparer{
		rep: rep, model: h.model, began: h.at().Add(-o.Grace), options: o, looked: o.SkipLines,
		out: newOut(w, header{h.model, h.time, rep.Queue()}), pace: o.pace(),
	}
	var err error
	if c.shape, err = rep.Model(h.model); err != nil {
		return nil, err
	}
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
		c.repeats = c.speaks && outbox.HasIntegerKeys(c.shape.Table)
	}
	c.out.opened = o.SkipLines > 0
	c.out.open()
	return c, nil
}

func (c *comparer) run(ctx context.Context, in *lines) error {
	reached := c.looked
	looked := ahead(ctx, func(ctx context.Context) iter.Seq2[looked, error] { return c.looks(ctx, in) })
	for l, err := range looked {
		if err != nil {
			return err
		}
		now := time.Now()
		c.looked++
		for _, claim := range l.differ {
			c.suspects = append(c.suspects, suspect{claim, now, c.looked})
		}
		if err := c.pace.add(ctx, l.compared); err != nil {
			return err
		}
		if err := c.settle(ctx, len(c.suspects) > maxSuspects); err != nil {
			return err
		}
		if n := c.settled(); n > reached {
			reached = n
			if err := errors.Join(c.out.Flush(), c.options.reachedLine(n)); err != nil {
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
	object, err := outbox.EncodeRow(c.shape.Table, kept.Row, kept.Nulls)
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
