package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// DeletedDiffReplica writes the keys that the replica has, or those of the rows that Options.Filter selects: model and time
// in the first line, then lines of keys. Nothing is written where it has none. It returns how many there are.
func DeletedDiffReplica(ctx context.Context, rep *replica.Replica, model string, w io.Writer, o Options) (int64, error) {
	p := o.pace()
	to := newOut(w, newHeader(model))
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
	return p.done, nil
}

// DeletedDiffMaster reads what DeletedDiffReplica wrote and writes, below the same first line, the keys that the master
// does not have, or does not send.
func DeletedDiffMaster(
	ctx context.Context, box *outbox.Box, r io.Reader, w io.Writer, o Options,
) (d Difference, err error) {
	in := newLines(r)
	h, ok, err := in.header()
	if err != nil || !ok {
		return d, err
	}
	if _, err := box.Model(h.model); err != nil {
		return d, err
	}
	d.Model = h.model
	to := newOut(w, h)
	to.opened = o.SkipLines > 0
	to.open()
	if err := to.Flush(); err != nil {
		return d, err
	}
	err = in.eachKeys(ctx, o, func(pks []json.RawMessage) error {
		gone, err := missing(ctx, box, h.model, pks)
		d.Compared += int64(len(pks))
		d.Differing += int64(len(gone))
		if err != nil {
			return err
		}
		return to.keys(gone)
	})
	return d, err
}

// missing are the keys of which the master has no instance. A key that the master's table cannot have is an error.
func missing(ctx context.Context, box *outbox.Box, model string, pks []json.RawMessage) ([]json.RawMessage, error) {
	instances, err := box.Lookup(ctx, model, pks)
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
