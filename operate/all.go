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
	ctx context.Context, box *outbox.Box, rep *replica.Replica, model string, w io.Writer, o DiffOptions,
) (Result, error) {
	result := Result{Difference: Difference{Model: model}}
	if _, err := o.Filter.OnMaster(box, model); err != nil {
		return result, err
	}
	shape, err := mirrored.Of(rep).Model(model)
	if err == nil {
		_, err = o.Filter.onReplica(shape)
	}
	if err != nil {
		return result, err
	}
	unsent, err := sample(ctx, box, model, shape)
	if err != nil {
		return result, err
	}
	o.SkipLines, o.ReachedLine, o.unmarked = 0, nil, true
	quiet := o.Options
	quiet.Progress, quiet.Rate = nil, 0
	if o.CheckOnly {
		quiet.MaxDeletes = math.MaxInt64 // that it finds: it deletes none
	}
	err = pipeline(ctx,
		func(ctx context.Context, _ io.Reader, w io.Writer) error {
			_, err := DiffMaster(ctx, box, model, w, DiffMasterOptions{Options: quiet,
				Content: o.Content})
			return result.pass(err)
		},
		func(ctx context.Context, r io.Reader, to io.Writer) (err error) {
			result.Difference, err = DiffReplica(ctx, rep, r, io.MultiWriter(w, to), o.Options)
			if !o.Content {
				result.Unsent = unsent
			}
			return err
		},
		func(ctx context.Context, r io.Reader, _ io.Writer) (err error) {
			if !o.CheckOnly {
				var sent int64
				sent, err = DiffSync(ctx, box, r, quiet)
				result.Sent, err = sent, result.pass(err)
			}
			return err
		})
	if err != nil {
		return result, err
	}
	err = pipeline(ctx,
		func(ctx context.Context, _ io.Reader, w io.Writer) error {
			_, err := DeletedDiffReplica(ctx, rep, model, w, quiet)
			return err
		},
		func(ctx context.Context, r io.Reader, to io.Writer) error {
			extra, err := DeletedDiffMaster(ctx, box, r, io.MultiWriter(w, to), quiet)
			result.Extra = extra.Differing
			return err
		},
		func(ctx context.Context, r io.Reader, _ io.Writer) error {
			if o.CheckOnly {
				return nil
			}
			deletion, err := DeletedSyncReplica(ctx, rep, r, quiet, o.BadKey)
			result.Deleted, result.Bad = deletion.Deleted, deletion.Bad
			result.Extra -= deletion.Kept
			return err
		})
	return result, err
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
