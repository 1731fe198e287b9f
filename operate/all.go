package operate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// DiffOptions are those of Diff.
type DiffOptions struct {
	Options
	// Content compares the columns too; see DiffMasterOptions.
	Content bool
	// Digest compares digests of ranges of keys, and lists the keys of those alone that differ: of a
	// large model that is equal it carries next to nothing between the databases. It finds what is
	// found without it, and knows no Content and no Filter. Rows of the master that its ledger does
	// not know get their row there, with revision 0, unless CheckOnly is set.
	Digest bool
	// CheckOnly reports and repairs nothing.
	CheckOnly bool
	// BadKey, if set, is called for each key that could not be deleted.
	BadKey func(pk json.RawMessage, err error)
}

// Result is what Diff found and did.
type Result struct {
	// Difference counts the keys that the replica lacks or has in another state; Sent of them were
	// sent again.
	Difference
	Sent int64
	// Extra keys are on the replica alone; Deleted of them were deleted.
	Extra   int64
	Deleted int64
	// Bad keys could not be deleted.
	Bad int64
	// BadRows of the master cannot be sent, so nobody knows whether the replica has them.
	BadRows int64
}

// Equal says that nothing was found.
func (r Result) Equal() bool { return r.Difference.Equal() && r.Extra == 0 && r.BadRows == 0 }

// Diff is all the stages in one process, for whoever reaches both databases: it compares, writes to
// w what DiffReplica and DeletedDiffMaster write, sends again what differs, and deletes what the
// master does not have. The keys are sent through the outbox: they arrive when the relay has
// published them. With a filter, what only the replica has is what it selects there; a filter by a
// field that the replica does not keep is refused.
func Diff(
	ctx context.Context, box *outbox.Box, rep *replica.Replica, model string, w io.Writer,
	o DiffOptions,
) (result Result, err error) {
	d := differ{box: box, rep: rep, model: model, w: w}
	d.result.Model = model
	if err := d.prepare(ctx, o); err != nil {
		return d.result, err
	}
	if d.digests != nil {
		defer func() { err = errors.Join(err, d.digests.extra.close()) }()
	}
	if err = d.sendDiffering(ctx); err == nil {
		err = d.deleteExtra(ctx)
	}
	return d.result, err
}

// differ is a Diff.
type differ struct {
	box     *outbox.Box
	rep     *replica.Replica
	model   string
	w       io.Writer
	options DiffOptions
	quiet   Options  // of stages that say nothing of their progress
	digests *digests // nil where all keys are listed
	unsent  []Unsent
	result  Result
}

// prepare finds out what may be wrong before anything is listed.
func (d *differ) prepare(ctx context.Context, o DiffOptions) error {
	if err := o.checkDigest(); err != nil {
		return err
	}
	if _, err := o.Filter.OnMaster(d.box, d.model); err != nil {
		return err
	}
	shape, err := mirrored.Of(d.rep).Model(d.model)
	if err == nil {
		_, err = o.Filter.onReplica(shape)
	}
	if err != nil {
		return err
	}
	if err := mirrored.Of(d.rep).Check(ctx, d.model); err != nil {
		return err
	}
	if d.unsent, err = sample(ctx, d.box, d.model, shape); err != nil {
		return err
	}
	o.SkipLines, o.ReachedLine, o.unmarked = 0, nil, true
	d.options, d.quiet = o, o.Options
	d.quiet.Progress, d.quiet.Rate = nil, 0
	if o.CheckOnly {
		d.quiet.MaxDeletes = math.MaxInt64 // that it finds: it deletes none
	}
	if o.Digest {
		d.digests = &digests{box: d.box, rep: d.rep, model: d.model, shape: shape, options: o}
	}
	return nil
}

// listMaster writes what the master has, as far as the replica may have something else.
func (d *differ) listMaster(ctx context.Context, _ io.Reader, w io.Writer) (err error) {
	if d.digests != nil {
		err = d.digests.list(ctx, w)
	} else {
		_, err = DiffMaster(ctx, d.box, d.model, w,
			DiffMasterOptions{Options: d.quiet, Content: d.options.Content})
	}
	return d.result.pass(err)
}

// sendDiffering sends again what differs.
func (d *differ) sendDiffering(ctx context.Context) error {
	compare := d.options.Options
	if d.digests != nil {
		compare = d.quiet // the digests say how far it is
	}
	err := pipeline(ctx, d.listMaster,
		func(ctx context.Context, r io.Reader, to io.Writer) (err error) {
			d.result.Difference, err = DiffReplica(ctx, d.rep, r, io.MultiWriter(d.w, to), compare)
			if !d.options.Content {
				d.result.Unsent = d.unsent
			}
			return err
		},
		func(ctx context.Context, r io.Reader, _ io.Writer) (err error) {
			if !d.options.CheckOnly {
				var sent int64
				sent, err = DiffSync(ctx, d.box, r, d.quiet)
				d.result.Sent, err = sent, d.result.pass(err)
			}
			return err
		})
	if d.digests != nil {
		d.result.Compared = d.digests.pace.done
	}
	return err
}

// deleteExtra deletes what only the replica has.
func (d *differ) deleteExtra(ctx context.Context) error {
	return pipeline(ctx,
		func(ctx context.Context, _ io.Reader, w io.Writer) error {
			if d.digests != nil {
				return d.digests.tell(w)
			}
			_, err := DeletedDiffReplica(ctx, d.rep, d.model, w, d.quiet)
			return err
		},
		func(ctx context.Context, r io.Reader, to io.Writer) error {
			extra, err := DeletedDiffMaster(ctx, d.box, r, io.MultiWriter(d.w, to), d.quiet)
			d.result.Extra = extra.Differing
			return err
		},
		func(ctx context.Context, r io.Reader, _ io.Writer) error {
			if d.options.CheckOnly {
				return nil
			}
			deletion, err := DeletedSyncReplica(ctx, d.rep, r, d.quiet, d.options.BadKey)
			d.result.Deleted, d.result.Bad = deletion.Deleted, deletion.Bad
			d.result.Extra -= deletion.Kept
			return err
		})
}

// pass counts rows that cannot be sent; the other stages go on.
func (r *Result) pass(err error) error {
	var bad *BadRowsError
	if errors.As(err, &bad) {
		atomic.AddInt64(&r.BadRows, bad.Rows)
		return nil
	}
	return err
}

type stage func(ctx context.Context, r io.Reader, w io.Writer) error

// pipeline runs stages as a shell's pipe does, and returns the first error.
func pipeline(ctx context.Context, stages ...stage) error {
	group, ctx := errgroup.WithContext(ctx)
	in, nothing := io.Pipe()
	_ = nothing.Close() // always nil, as with the others
	for _, run := range stages {
		from := in
		next, to := io.Pipe()
		in = next
		group.Go(func() error {
			err := run(ctx, from, to)
			if err == nil { // what a stage does not need must not stop the one before
				_, err = io.Copy(io.Discard, from)
			}
			_ = from.CloseWithError(err)
			_ = to.CloseWithError(err)
			return err
		})
	}
	_, _ = io.Copy(io.Discard, in) // its error is that of the last stage
	return group.Wait()
}
