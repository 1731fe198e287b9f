// Package operate is what people on call do: fill a replica (Dump, Load), find out whether it
// equals its master and repair it (DiffMaster, DiffReplica, DiffSync and their siblings for deleted
// keys; Diff does all of it), and send states again (Sync).
//
// Every operation streams: memory does not grow with the table. Every operation is right while
// writes go on: the master is read in snapshots of a page, what arrives on the replica passes its
// gate, and a difference is looked at twice before it is reported. The formats are those of
// django-cqrs, so either side of a pipe may be Django.
//
// Neighbours: outbox and replica, whose public methods this is written with, so that serializers,
// filters and mappings of the service hold here too; operate/command makes command lines of it.
package operate

import (
	"context"
	"encoding/json"
	"time"

	"github.com/cqrsync/cqrsync/internal/boxed"
)

// Options are common to the operations. The zero value is ready to use.
type Options struct {
	// Filter selects instances, by the names that the master has for their fields; see ParseFilter.
	// The zero value selects all.
	Filter Filter
	// PageSize is how many rows are read and held at once. Default: 5000, for diffs 10,000: small
	// enough for memory, and large enough that round trips do not count.
	PageSize int
	// Rate is how many rows per second may be handled, 0 for as many as go.
	Rate int
	// Progress, if set, is called after every page with how many rows are done, from one goroutine.
	Progress func(done int64)
	// Grace is how long a difference must last to be reported: a change that is on its way is none.
	// 0 looks twice without waiting.
	Grace time.Duration
	// SkipLines, of operations that read what another one wrote: so many lines after the first were
	// dealt with by a run that was interrupted. Append the output of this run to that of the
	// interrupted one.
	SkipLines int
	// AllowEmpty takes an input without even a first line for one without keys, as a Django stage
	// writes where it finds nothing. Stages of this package always write a first line.
	AllowEmpty bool
	// MaxDeletes is how many rows an operation may delete. 0 leaves it to Guard.
	MaxDeletes int64
	// BadRow, if set, is called for each row that cannot be sent, with its primary key as JSON. The
	// others are; the operation returns a *BadRowsError in the end.
	BadRow func(pk json.RawMessage, err error)
	// LeftOut says that an interrupted run, which this one goes on from, left rows out: the end of
	// the output is not marked.
	LeftOut bool
	// ReachedLine, if set, is called with how many lines after the first have been dealt with, good
	// or bad. Its error ends the operation.
	ReachedLine func(lines int) error

	unmarked bool // the stages are in one process, and know of each other's errors
}

// Resume is for operations that go through the primary keys of a model in their order. The zero
// value begins with the first.
type Resume struct {
	// After is the primary key, as JSON, after which to go on from what an interrupted run wrote.
	// The first line is then left out.
	After json.RawMessage
	// Reached, if set, is called with the last primary key of each page, when all before it has
	// been dealt with. Its error ends the operation.
	Reached func(pk json.RawMessage) error
}

// stage is the header's word for a stage that ends with a mark.
func (o Options) stage(name string) string {
	if o.unmarked {
		return ""
	}
	return name
}

func (r Resume) reached(page []boxed.Instance) error {
	if r.Reached == nil || len(page) == 0 {
		return nil
	}
	return r.Reached(page[len(page)-1].PK)
}

func (o Options) reachedLine(lines int) error {
	if o.ReachedLine == nil {
		return nil
	}
	return o.ReachedLine(lines)
}

func (o Options) pageSize(otherwise int) int {
	if o.PageSize > 0 {
		return o.PageSize
	}
	return otherwise
}

const (
	// statePage is how many states are held at once.
	statePage = 5_000
	// diffPage is how many keys stand in a line, as with django-cqrs.
	diffPage = 10_000
)

// pace counts rows, reports them and holds them to the rate.
type pace struct {
	options Options
	started time.Time
	done    int64
}

func (o Options) pace() *pace { return &pace{options: o, started: time.Now()} }

// add counts n rows and returns when they may have been handled, or when ctx ends.
func (p *pace) add(ctx context.Context, n int) error {
	p.done += int64(n)
	if p.options.Progress != nil {
		p.options.Progress(p.done)
	}
	if p.options.Rate <= 0 {
		return ctx.Err()
	}
	seconds := float64(p.done) / float64(p.options.Rate)
	due := p.started.Add(time.Duration(seconds * float64(time.Second)))
	return wait(ctx, time.Until(due))
}
