package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// DeletedDiffReplica writes the keys that the replica has, or those of the rows that Options.Filter
// selects: model and time in the first line, then lines of keys, and a mark that it came to the
// end. It returns how many there are.
func DeletedDiffReplica(
	ctx context.Context, rep *replica.Replica, model string, w io.Writer, o Options,
) (int64, error) {
	p := o.pace()
	if err := mirrored.Of(rep).Check(ctx, model); err != nil {
		return 0, fmt.Errorf("deleted diff of %s: %w", model, err)
	}
	h, err := newHeader(ctx, model, o.stage(stageDeletedDiffReplica), rep)
	if err != nil {
		return 0, fmt.Errorf("deleted diff of %s: %w", model, err)
	}
	to := newOut(w, h)
	pages, err := heldKeys(ctx, rep, model, o)
	if err != nil {
		return 0, fmt.Errorf("deleted diff of %s: %w", model, err)
	}
	for page, err := range pages {
		if err != nil {
			return p.done, fmt.Errorf("deleted diff of %s: %w", model, err)
		}
		if err := to.keys(page); err != nil {
			return p.done, fmt.Errorf("deleted diff of %s: write: %w", model, err)
		}
		if err := p.add(ctx, len(page)); err != nil {
			return p.done, err
		}
	}
	if err := to.end(true); err != nil {
		return p.done, fmt.Errorf("deleted diff of %s: write: %w", model, err)
	}
	return p.done, nil
}

// DeletedDiffMaster reads what DeletedDiffReplica wrote and writes, below the same first line, the
// keys that the master does not have, or does not send. A master that has no row of the model at
// all is taken for the wrong one, unless Options.MaxDeletes says otherwise: then it writes none,
// and fails.
func DeletedDiffMaster(
	ctx context.Context, box *outbox.Box, r io.Reader, w io.Writer, o Options,
) (d Difference, err error) {
	in := newLines(r)
	h, ok, err := in.header(stageDeletedDiffReplica, o)
	if err != nil || !ok {
		return d, err
	}
	d.Model = h.model
	rows, err := hasRows(ctx, box, h.model)
	if err != nil {
		return d, err
	}
	to := newOut(w, h.by(o.stage(stageDeletedDiffMaster), ""))
	to.opened = o.SkipLines > 0
	to.open()
	if err := to.Flush(); err != nil {
		return d, err
	}
	err = in.eachKeys(ctx, o, func(pks []json.RawMessage) error {
		gone, err := missing(ctx, box, h.model, pks)
		d.Compared += int64(len(pks))
		d.Differing += int64(len(gone))
		if err != nil || !rows && d.Differing > o.MaxDeletes {
			return err
		}
		return to.keys(gone)
	})
	if err == nil && !rows && d.Differing > o.MaxDeletes {
		err = &TooManyDeletesError{Model: h.model, Deletes: d.Differing, Of: d.Compared,
			MasterIsEmpty: true}
	}
	if err != nil {
		return d, err
	}
	return d, to.end(true)
}

// hasRows says that the master sends any instance of a model.
func hasRows(ctx context.Context, box *outbox.Box, model string) (bool, error) {
	first := boxed.Selection{PageSize: 1, Bad: func(json.RawMessage, error) {}}
	for page, err := range boxed.Of(box).Revisions(ctx, model, first) {
		if err != nil || len(page) > 0 { // not one that is kept from replicas
			return len(page) > 0, err
		}
	}
	return false, nil
}

// missing are the keys of which the master has no instance. A key that the master's table cannot
// have is an error.
func missing(
	ctx context.Context, box *outbox.Box, model string, pks []json.RawMessage,
) ([]json.RawMessage, error) {
	instances, err := boxed.Of(box).Lookup(ctx, model, pks)
	if err != nil {
		return nil, err
	}
	var gone []json.RawMessage
	for i, instance := range instances {
		if instance.PK == nil {
			gone = append(gone, pks[i])
		}
	}
	return gone, nil
}
