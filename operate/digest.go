package operate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// digestPage is how many keys a range has: as many as a database hashes in one statement.
const digestPage = 4096

// digests lists, of a model, the keys that may differ. Ranges of keys that have the same digest on
// both sides are equal, and no key of them is listed.
type digests struct {
	box     *outbox.Box
	rep     *replica.Replica
	model   string
	shape   mirrored.Shape
	options DiffOptions

	speaks struct{ master, replica bool } // their ledgers, for their tables
	size   int                            // of a range, and of a page of keys
	out    *out
	held   header // of extra
	extra  spool  // keys that the replica alone seems to have
	pace   *pace
	bad    *badRows
}

// checkDigest refuses what digests of ledgers cannot tell.
func (o DiffOptions) checkDigest() error {
	var errs []error
	if o.Digest && o.Content {
		errs = append(errs, errors.New("diff: Digest and Content: digests are of revisions, and the "+
			"columns are read row by row: want one of them"))
	}
	if o.Digest && !o.Filter.IsZero() {
		errs = append(errs, errors.New("diff: Digest and Filter: digests are of all keys of a model: "+
			"want one of them"))
	}
	return errors.Join(errs...)
}

// list writes what DiffMaster writes, of the ranges that differ, and keeps what DeletedDiffReplica
// writes of them.
func (d *digests) list(ctx context.Context, w io.Writer) error {
	d.size, d.pace = d.options.pageSize(digestPage), d.options.pace()
	d.bad = d.options.badRows()
	h, err := newHeader(ctx, d.model, d.options.stage(stageDiffMaster), d.box)
	if err != nil {
		return err
	}
	d.out = newOut(w, h)
	d.out.open()
	stage := d.options.stage(stageDeletedDiffReplica)
	if d.held, err = newHeader(ctx, d.model, stage, d.rep); err != nil {
		return err
	}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	for r, err := range prefetch(ctx, d.ranges) {
		if err == nil {
			err = d.compareRange(ctx, r)
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(d.strangers(ctx), d.out.Flush()); err != nil {
		return err
	}
	return d.bad.err()
}

// prepare finds out what the ledgers are worth. Rows that the master's does not know get their row
// there, so that they are in digests from now on; where nothing may be written they are listed.
func (d *digests) prepare(ctx context.Context) (err error) {
	master, held := boxed.Of(d.box), mirrored.Of(d.rep)
	if d.speaks.replica, err = held.LedgerSpeaks(ctx, d.model); err != nil {
		return err
	}
	d.speaks.master, err = master.Speaks(ctx, d.model)
	if err != nil || d.speaks.master {
		return err
	}
	if !d.options.CheckOnly {
		_, err = master.AdoptUnknown(ctx, d.model, d.bad.add)
		return err
	}
	s := boxed.Selection{PageSize: d.options.pageSize(diffPage), Bad: d.bad.add}
	for page, err := range master.Unknown(ctx, d.model, s) {
		if err == nil && len(page) > 0 {
			err = d.out.revisions(page, nil)
		}
		if err == nil {
			err = d.pace.add(ctx, len(page))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keyRange is a range of keys with the master's digest; to is empty for the last one.
type keyRange struct {
	after, to string
	keys      int
	sum       string
}

// ranges reads the master's digests.
func (d *digests) ranges(ctx context.Context) iter.Seq2[keyRange, error] {
	return func(yield func(keyRange, error) bool) {
		for r := (keyRange{}); ; r.after = r.to {
			made, err := boxed.Of(d.box).Digest(ctx, d.model, boxed.Portion{
				After: r.after, Limit: d.size, Speaks: d.speaks.master,
			})
			if r.to = ""; made.More {
				r.to = made.Last
			}
			r.keys, r.sum = made.Keys, made.Sum
			if !yield(r, err) || err != nil || r.to == "" {
				return
			}
		}
	}
}

// compareRange lists what differs in a range.
func (d *digests) compareRange(ctx context.Context, r keyRange) error {
	ours, err := mirrored.Of(d.rep).Digest(ctx, d.model, mirrored.Portion{
		After: r.after, To: r.to, Speaks: d.speaks.replica,
	})
	if err == nil && (ours.Keys != r.keys || ours.Sum != r.sum) {
		err = d.compareKeys(ctx, r)
	}
	if err != nil {
		return err
	}
	return d.pace.add(ctx, r.keys)
}

// compareKeys lists what differs in a range, page by page: there may be more keys by now, and any
// number that the replica alone has.
func (d *digests) compareKeys(ctx context.Context, r keyRange) error {
	for more := true; more; {
		var claims []boxed.Claim
		var last string
		var err error
		claims, last, more, err = boxed.Of(d.box).Claims(ctx, d.model, boxed.Portion{
			After: r.after, To: r.to, Limit: d.size, Speaks: d.speaks.master,
		})
		if err != nil {
			return err
		}
		page := keyRange{after: r.after, to: r.to}
		if more {
			page.to, r.after = last, last
		}
		if err := d.comparePage(ctx, claims, page); err != nil {
			return err
		}
	}
	return nil
}

// comparePage lists the claims that the replica does not bear out, and keeps the keys that it alone
// has.
func (d *digests) comparePage(ctx context.Context, claims []boxed.Claim, r keyRange) error {
	said := make(map[string]int64, len(claims))
	for _, c := range claims {
		said[c.Key] = c.Revision
	}
	for more := true; more; {
		var held []mirrored.Holding
		var err error
		held, r.after, more, err = mirrored.Of(d.rep).Holdings(ctx, d.model, mirrored.Portion{
			After: r.after, To: r.to, Limit: d.size, Speaks: d.speaks.replica,
		})
		if err != nil {
			return err
		}
		var extra []json.RawMessage
		for _, h := range held {
			revision, is := said[h.Key]
			if !is {
				extra = append(extra, stored.KeyJSON(d.shape.Key, h.Key))
			} else if revision == h.Revision {
				delete(said, h.Key)
			}
		}
		if err := d.keep(extra); err != nil {
			return err
		}
	}
	return d.write(claims, said)
}

// write writes the claims that differ.
func (d *digests) write(claims []boxed.Claim, differ map[string]int64) error {
	if len(differ) == 0 {
		return nil
	}
	table, err := boxed.Of(d.box).Model(d.model)
	if err != nil {
		return err
	}
	var page []boxed.Instance
	for _, c := range claims {
		if _, differs := differ[c.Key]; differs {
			pk := stored.KeyJSON(table.PKs, c.Key)
			page = append(page, boxed.Instance{PK: pk, Revision: c.Revision})
		}
	}
	return d.out.revisions(page, nil)
}

// strangers keeps the keys of rows that the replica's ledger does not know.
func (d *digests) strangers(ctx context.Context) error {
	if d.speaks.replica || !d.shape.Mirrored {
		return nil
	}
	exact, err := mirrored.Of(d.rep).KeyIsExact(ctx, d.model)
	if err != nil {
		return err
	}
	h := &holder{rep: d.rep, model: d.model, shape: d.shape}
	for rows, err := range mirrored.Of(d.rep).Keys(ctx, d.model, nil, d.size) {
		if err == nil {
			_, err = h.known(ctx, rows)
		}
		if err == nil && (exact || len(h.strangers) >= maxSuspects) {
			err = d.keepStrangers(ctx, h, exact)
		}
		if err != nil {
			return err
		}
	}
	return d.keepStrangers(ctx, h, exact)
}

// keepStrangers keeps what a holder has of them. Those that the ledger has under another spelling
// are in the ranges.
func (d *digests) keepStrangers(ctx context.Context, h *holder, exact bool) error {
	if len(h.strangers) == 0 {
		return nil
	}
	var pks []json.RawMessage
	if exact {
		for _, s := range h.strangers {
			pks = append(pks, s.pk)
		}
		h.strangers = nil
		return d.keep(pks)
	}
	page, listed, err := h.named(ctx)
	if err != nil {
		return err
	}
	for i, pk := range page {
		if !listed[i] {
			pks = append(pks, pk)
		}
	}
	return d.keep(pks)
}
