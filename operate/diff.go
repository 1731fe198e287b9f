package operate

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/outbox"
)

// DiffMasterOptions are those of DiffMaster.
type DiffMasterOptions struct {
	Options
	// Resume, if it is not zero, has keys come in the order of the primary key, which is slower
	// than the ledger's.
	Resume
	// Content adds hashes of the fields, so that rows that differ at the same revision are found.
	// Django cannot read it.
	Content bool
}

// DiffMaster writes what the master has: model and time in the first line, then lines of [key,
// revision] pairs, and a mark that it came to the end. It returns how many instances there were.
func DiffMaster(
	ctx context.Context, box *outbox.Box, model string, w io.Writer, o DiffMasterOptions,
) (int64, error) {
	where, err := o.Filter.OnMaster(box, model)
	if err != nil {
		return 0, err
	}
	h, err := newHeader(ctx, model, o.stage(stageDiffMaster), box)
	if err != nil {
		return 0, fmt.Errorf("diff %s: %w", model, err)
	}
	l := lister{
		DiffMasterOptions: o, box: box, model: model, pace: o.pace(), bad: o.badRows(), out: newOut(w, h),
	}
	l.selection = boxed.Selection{
		Where: where, After: o.After, PageSize: o.pageSize(diffPage), Bad: l.bad.add,
	}
	l.out.opened = o.After != nil
	err = l.run(ctx)
	if err == nil {
		err = l.out.end(l.bad.count == 0 && !o.LeftOut)
	}
	if err != nil {
		return l.pace.done, fmt.Errorf("diff %s: %w", model, err)
	}
	return l.pace.done, l.bad.err()
}

// lister writes the lines of DiffMaster.
type lister struct {
	DiffMasterOptions
	box       *outbox.Box
	model     string
	selection boxed.Selection
	pace      *pace
	bad       *badRows
	out       *out
	names     []string // of the fields that are hashed, once an instance has told
}

func (l *lister) run(ctx context.Context) error {
	if l.Content {
		l.selection.PageSize = l.pageSize(statePage)
		return l.instances(ctx, boxed.Of(l.box).Instances)
	}
	l.out.open() // at once: the next stage has to look at its ledger too
	if err := l.out.Flush(); err != nil {
		return err
	}
	if l.selection.Where == nil && l.After == nil && l.Reached == nil {
		pages, err := boxed.Of(l.box).Listing(ctx, l.model, l.selection.PageSize)
		if err != nil {
			return err
		}
		if pages != nil {
			return l.ledger(ctx, pages)
		}
	}
	return l.instances(ctx, boxed.Of(l.box).Revisions)
}

// ledger writes what the ledger has, in its own words.
func (l *lister) ledger(ctx context.Context, pages iter.Seq2[boxed.Pairs, error]) error {
	all := func(context.Context) iter.Seq2[boxed.Pairs, error] { return pages }
	for page, err := range prefetch(ctx, all) {
		if err != nil {
			return err
		}
		l.out.open()
		_, _ = l.out.WriteString("[[") // Flush returns the error
		_, _ = l.out.WriteString(page.Text)
		_, _ = l.out.WriteString("]]\n")
		if err := l.out.Flush(); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if err := l.pace.add(ctx, page.Count); err != nil {
			return err
		}
	}
	return nil
}

// instances writes what read reads.
func (l *lister) instances(
	ctx context.Context,
	read func(context.Context, string, boxed.Selection) iter.Seq2[[]boxed.Instance, error],
) error {
	pages := func(ctx context.Context) iter.Seq2[[]boxed.Instance, error] {
		return read(ctx, l.model, l.selection)
	}
	for page, err := range prefetch(ctx, pages) {
		if err != nil {
			return err
		}
		if len(page) == 0 {
			continue
		}
		if err := l.begin(page[0]); err != nil {
			return err
		}
		if err := l.out.revisions(page, l.names); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if err := l.reached(page); err != nil {
			return err
		}
		if err := l.pace.add(ctx, len(page)); err != nil {
			return err
		}
	}
	return nil
}

// begin writes the first line, which with content says what the first instance has.
func (l *lister) begin(first boxed.Instance) error {
	if l.Content && l.names == nil {
		var err error
		if l.names, err = fieldNames(first.Data); err != nil {
			return fmt.Errorf("key %s: %w", first.Key, err)
		}
		l.out.header.more = announcesContent + strings.Join(l.names, " ")
	}
	l.out.open()
	return nil
}

// revisions writes a line of [key, revision] pairs, or with names, of [key, revision, hashes].
func (o *out) revisions(page []boxed.Instance, names []string) error {
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
			if b, err = appendContents(b, instance.Data, names); err != nil {
				return fmt.Errorf("key %s: %w", instance.Key, err)
			}
		}
		b = append(b, ']')
		_, _ = o.Write(b) // Flush returns the error
	}
	_, _ = o.WriteString("]\n")
	return o.Flush()
}
