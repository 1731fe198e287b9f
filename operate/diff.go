package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/outbox"
)

// DiffMasterOptions are those of DiffMaster.
type DiffMasterOptions struct {
	Options
	// Content adds hashes of the fields, so that rows that differ at the same revision are found. Django cannot read it.
	Content bool
	// After and Reached are as with Dump. With either, keys come in the order of the primary key, which is slower than the
	// ledger's.
	After   json.RawMessage
	Reached func(pk json.RawMessage) error
}

// DiffMaster writes what the master has: model and time in the first line, then lines of [key, revision] pairs. Nothing
// at all is written where nothing matches. It returns how many instances there were.
func DiffMaster(ctx context.Context, box *outbox.Box, model string, w io.Writer, o DiffMasterOptions) (int64, error) {
	where, err := whereOn(box, model, o.Filter)
	if err != nil {
		return 0, err
	}
	p := o.pace()
	to := newOut(w, newHeader(model, ""))
	to.opened = o.After != nil
	selection := outbox.Selection{
		Where: where, After: o.After, PageSize: o.pageSize(diffPage), AnyOrder: !o.Content && o.After == nil && o.Reached == nil,
	}
	read := box.Revisions
	if o.Content {
		selection.PageSize, read = o.pageSize(statePage), box.Instances
	} else if err := o.announce(ctx, box, model, selection, to); err != nil {
		return 0, err
	}
	var names []string
	pages := ahead(ctx, func(ctx context.Context) iter.Seq2[[]outbox.Instance, error] { return read(ctx, model, selection) })
	for page, err := range pages {
		if err != nil {
			return p.done, fmt.Errorf("diff %s: %w", model, err)
		}
		if len(page) == 0 {
			continue
		}
		if o.Content && names == nil {
			if names, err = fieldNames(page[0].Data); err != nil {
				return p.done, fmt.Errorf("diff %s: key %s: %w", model, page[0].Key, err)
			}
			to.header.more = announcesContent + strings.Join(names, " ")
		}
		to.open()
		if err := to.revisions(page, names); err != nil {
			return p.done, fmt.Errorf("diff %s: write: %w", model, err)
		}
		if o.Reached != nil {
			if err := o.Reached(page[len(page)-1].PK); err != nil {
				return p.done, err
			}
		}
		if err := p.add(ctx, len(page)); err != nil {
			return p.done, err
		}
	}
	return p.done, nil
}

// announce writes the first line as soon as it is known that others follow: the next stage has to look at its ledger too.
func (o DiffMasterOptions) announce(
	ctx context.Context, box *outbox.Box, model string, s outbox.Selection, to *out,
) error {
	s.PageSize, s.AnyOrder = 1, false
	for page, err := range box.Revisions(ctx, model, s) {
		if err != nil {
			return fmt.Errorf("diff %s: %w", model, err)
		}
		if len(page) > 0 { // not a row that is kept from replicas
			to.open()
			return to.Flush()
		}
	}
	return nil
}

// revisions writes a line of [key, revision] pairs, or with names, of [key, revision, hashes].
func (o *out) revisions(page []outbox.Instance, names []string) error {
	var b []byte
	for i, instance := range page {
		b = append(b[:0], '[', '[')
		if i > 0 {
			b[0] = ','
		}
		b = append(b, instance.PK...)
		b = append(b, ',')
		b = strconv.AppendInt(b, instance.Revision, 10)
		if names != nil {
			var err error
			if b, err = appendHashes(append(b, `,"`...), instance.Data, names); err != nil {
				return fmt.Errorf("key %s: %w", instance.Key, err)
			}
			b = append(b, '"')
		}
		b = append(b, ']')
		_, _ = o.Write(b) // Flush returns the error
	}
	_, _ = o.WriteString("]\n")
	return o.Flush()
}
