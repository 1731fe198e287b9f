package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/outbox"
)

// SyncOptions are those of Sync.
type SyncOptions struct {
	Options
	Resume
	// To says which replica is sent the states, and whether it must take them.
	To outbox.SyncOptions
}

// Sync sends the present state of instances to one replica, or to all, as SYNC messages through the
// outbox. It returns how many were appended.
func Sync(
	ctx context.Context, box *outbox.Box, model string, o SyncOptions,
) (sent int64, err error) {
	where, err := o.Filter.OnMaster(box, model)
	if err != nil {
		return 0, err
	}
	p, bad := o.pace(), o.badRows()
	o.To.Bad = bad.add
	selection := boxed.Selection{Where: where, After: o.After, PageSize: o.pageSize(statePage),
		Bad: bad.add}
	for page, err := range boxed.Of(box).Revisions(ctx, model, selection) {
		if err != nil {
			return sent, fmt.Errorf("sync %s: %w", model, err)
		}
		if len(page) == 0 {
			continue
		}
		n, err := box.Sync(ctx, model, pksOf(page), o.To)
		sent += int64(n)
		if err != nil {
			return sent, err
		}
		if err := o.reached(page); err != nil {
			return sent, err
		}
		if err := p.add(ctx, len(page)); err != nil {
			return sent, err
		}
	}
	return sent, bad.err()
}

// DiffSync reads what DiffReplica wrote and sends the named keys again, to the queue named there
// only. It returns how many were appended; keys that are gone meanwhile are not among them.
//
// What the replica has in a later revision that is older than the listing, the master has lost: it
// went back to an earlier state. There the replica is forced, and only there.
func DiffSync(
	ctx context.Context, box *outbox.Box, r io.Reader, o Options,
) (sent int64, err error) {
	in := newLines(r)
	h, ok, err := in.header(stageDiffReplica, o)
	if err != nil || !ok {
		return 0, err
	}
	bad := o.badRows()
	if h.more == "" {
		return 0, fmt.Errorf("line 1: %w: no queue: want the output of diff-replica", ErrNotADiff)
	}
	err = in.eachKeys(ctx, o, func(pks []json.RawMessage) error {
		to := outbox.SyncOptions{Queue: h.more, ForceUntil: h.at(), Bad: bad.add}
		n, err := box.Sync(ctx, h.model, pks, to)
		sent += int64(n)
		return err
	})
	if err == nil {
		err = bad.err()
	}
	return sent, err
}

func pksOf(instances []boxed.Instance) []json.RawMessage {
	pks := make([]json.RawMessage, len(instances))
	for i, instance := range instances {
		pks[i] = instance.PK
	}
	return pks
}
