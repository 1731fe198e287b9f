package operate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/outbox"
)

// DumpOptions are those of Dump.
type DumpOptions struct {
	Options
	Resume
	// EndMark announces a last line in the first one, and writes it: Load then tells a dump that
	// broke off from a whole one. Django's cqrs_bulk_load does not read such a first line.
	EndMark bool
}

// dumpMark is the last line of a dump that is whole.
const dumpMark = "{}"

// Dump writes the instances of a model: the CQRS id in the first line, then one instance_data
// object per line, in the order of the primary key. It returns how many instances there were.
func Dump(
	ctx context.Context, box *outbox.Box, model string, w io.Writer, o DumpOptions,
) (int64, error) {
	where, err := o.Filter.OnMaster(box, model)
	if err != nil {
		return 0, err
	}
	p, bad := o.pace(), o.badRows()
	buffered := bufio.NewWriterSize(w, 256<<10)
	if o.After == nil {
		_, _ = buffered.WriteString(model) // Flush returns the error
		if o.EndMark {
			_, _ = buffered.WriteString("," + announcesEnd + stageDump)
		}
	}
	selection := boxed.Selection{
		Where: where, After: o.After, PageSize: o.pageSize(statePage), Bad: bad.add,
	}
	var line []byte
	pages := prefetch(ctx, func(ctx context.Context) iter.Seq2[[]boxed.Instance, error] {
		return boxed.Of(box).Instances(ctx, model, selection)
	})
	for page, err := range pages {
		if err != nil {
			return p.done, fmt.Errorf("dump %s: %w", model, err)
		}
		for _, instance := range page {
			line = appendInstance(line[:0], instance)
			_, _ = buffered.Write(line)
		}
		if err := buffered.Flush(); err != nil {
			return p.done, fmt.Errorf("dump %s: write: %w", model, err)
		}
		if err := o.reached(page); err != nil {
			return p.done, err
		}
		if err := p.add(ctx, len(page)); err != nil {
			return p.done, err
		}
	}
	if o.EndMark && !o.LeftOut && bad.count == 0 {
		_, _ = buffered.WriteString("\n" + dumpMark + "\n")
	}
	if err := buffered.Flush(); err != nil {
		return p.done, fmt.Errorf("dump %s: write: %w", model, err)
	}
	return p.done, bad.err()
}

// appendInstance writes revision and time first, as django-cqrs does.
func appendInstance(line []byte, i boxed.Instance) []byte {
	line = append(line, '\n')
	line = append(line, `{"cqrs_revision":`...)
	line = strconv.AppendInt(line, i.Revision, 10)
	line = append(line, `,"cqrs_updated":"`...)
	line = append(line, envelope.FormatTime(i.Updated)...)
	line = append(line, '"')
	if len(i.Data) > len("{}") {
		line = append(line, ',')
	}
	return append(line, i.Data[1:]...)
}
