package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
	"github.com/cqrsync/cqrsync/replica"
)

// Difference is what a diff found.
type Difference struct {
	Model string
	// Compared keys, of which so many differ.
	Compared, Differing int64
	// Ahead of the differing keys are newer on the replica than on the master: the master went back
	// to an earlier state. DiffSync forces them.
	Ahead int64
	// Content says that the columns were compared, and not only the revisions.
	Content bool
	// Unsent are the columns for which the master sends nothing: what they hold may be old. No
	// repair helps.
	Unsent []Unsent
	// NotCompared are the columns of which nothing is known: computed ones, and those of a handler.
	NotCompared []string
}

// Unsent is a column that a replica keeps, and the master's field that should fill it.
type Unsent struct{ Column, Field string }

// Equal says that nothing was found.
func (d Difference) Equal() bool { return d.Differing == 0 && len(d.Unsent) == 0 }

// DiffReplica reads what DiffMaster wrote and writes the keys that this replica lacks or has in
// another state: model, time and queue in the first line, then lines of keys, and a mark that it
// came to the end.
//
// A key that differs is looked at again after Options.Grace, and reported if it still does. A key
// that the replica has in a later revision differs only if that revision is older than the diff:
// else the master went on meanwhile.
func DiffReplica(
	ctx context.Context, rep *replica.Replica, r io.Reader, w io.Writer, o Options,
) (Difference, error) {
	in := newLines(r)
	h, ok, err := in.header(stageDiffMaster, o)
	if err != nil || !ok {
		return Difference{}, err
	}
	if err := mirrored.Of(rep).Check(ctx, h.model); err != nil {
		return Difference{Model: h.model}, err
	}
	c, err := newComparer(ctx, rep, h, w, o)
	if err != nil {
		return Difference{Model: h.model}, err
	}
	if err = c.run(ctx, in); err == nil {
		err = errors.Join(in.complete(), c.out.end(in.complete() == nil))
	}
	return c.difference(), err
}

type comparer struct {
	rep   *replica.Replica
	model string
	shape mirrored.Shape
	// speaks says that the ledger has what the table has, repeats that it may have whole lines word
	// for word.
	speaks, repeats bool
	// names are the fields that the master hashed, nil without content; columns then compares what
	// the replica keeps.
	names   []string
	columns *columns
	// began is when a later revision of the replica is news to the master's listing. Both are by
	// the master's clock.
	began     time.Time
	options   Options
	out       *out
	pace      *pace
	looked    int       // lines after the first, that were looked at once
	suspects  []suspect // in the order in which they were seen
	differing int64
	ahead     int64
}

func newComparer(
	ctx context.Context, rep *replica.Replica, h header, w io.Writer, o Options,
) (*comparer, error) {
	c := &comparer{
		rep: rep, model: h.model, began: h.at().Add(-o.Grace), options: o, looked: o.SkipLines,
		out: newOut(w, h.by(o.stage(stageDiffReplica), rep.Queue())), pace: o.pace(),
	}
	var err error
	if c.shape, err = mirrored.Of(rep).Model(h.model); err != nil {
		return nil, err
	}
	content, announced := strings.CutPrefix(h.more, announcesContent)
	switch {
	case announced:
		c.names = strings.Fields(content)
		c.columns = newColumns(c.shape, c.names)
	case h.more != "":
		return nil, fmt.Errorf("line 1: %w: %q is not known here", ErrNotADiff, h.more)
	default:
		if c.speaks, err = mirrored.Of(rep).LedgerSpeaks(ctx, h.model); err != nil {
			return nil, err
		}
		c.repeats = c.speaks && stored.HasIntegerKeys(c.shape.Key)
	}
	c.out.opened = o.SkipLines > 0
	c.out.open()
	return c, nil
}

func (c *comparer) run(ctx context.Context, in *lines) error {
	reached := c.looked
	looked := prefetch(ctx, func(ctx context.Context) iter.Seq2[looked, error] {
		return c.looks(ctx, in)
	})
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

// difference is what was found until now.
func (c *comparer) difference() Difference {
	d := Difference{Model: c.model, Compared: c.pace.done, Differing: c.differing, Ahead: c.ahead,
		Content: c.names != nil}
	if c.columns != nil && c.shape.Mirrored {
		d.Unsent, d.NotCompared = c.columns.unsent(d.Compared), c.columns.notCompared()
	} else if c.columns != nil {
		d.NotCompared = []string{"all columns, which a handler keeps"}
	}
	return d
}

// differs says that what is kept is neither what the master had nor newer.
func (c *comparer) differs(m claim, kept mirrored.Kept) (bool, error) {
	switch {
	case kept.Revision > m.revision: // saved or deleted since the master was read
		// At the same time is since: SQLite's clock has milliseconds, and what is not listed now is
		// listed the next time.
		return kept.Updated.Before(c.began), nil
	case !kept.Present || kept.Revision < m.revision:
		return true, nil
	case c.columns == nil || !c.shape.Mirrored:
		return false, nil
	}
	return c.columns.differ(m, kept)
}
