// Package operate is what people on call do: fill a replica (Dump, Load), find out whether it equals its master and
// repair it (DiffMaster, DiffReplica, DiffSync and their siblings for deleted keys; Diff does all of it), and send
// states again (Sync).
//
// Every operation streams: memory does not grow with the table. Every operation is right while writes go on: the master
// is read in snapshots of a page, what arrives on the replica passes its gate, and a difference is looked at twice
// before it is reported. The formats are those of django-cqrs, so either side of a pipe may be Django.
//
// Neighbours: outbox and replica, whose public methods this is written with, so that serializers, filters and mappings of
// the service hold here too; operate/command makes command lines of it.
package operate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
)

// Options are common to the operations. The zero value is ready to use.
type Options struct {
	// Filter selects instances, by the names that the master has for their fields; see ParseFilter. The zero value selects
	// all.
	Filter Filter
	// PageSize is how many rows are read and held at once. Default 5000, for diffs 10,000: small enough for memory, and large
	// enough that round trips do not count.
	PageSize int
	// Rate is how many rows per second may be handled, 0 for as many as go.
	Rate int
	// Progress, if set, is called after every page with how many rows are done, from one goroutine.
	Progress func(done int64)
	// Grace is how long a difference must last to be reported: a change that is on its way is none. 0 looks twice
	// without waiting.
	Grace time.Duration
	// SkipLines, of operations that read what another one wrote: so many lines after the first were dealt with by a run
	// that was interrupted. What this one writes belongs behind what that one wrote.
	SkipLines int
	// ReachedLine, if set, is called with how many lines after the first have been dealt with, good or bad. Its error ends
	// the operation.
	ReachedLine func(lines int) error
}

func (o Options) reached(lines int) error {
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
	due := p.started.Add(time.Duration(float64(p.done) / float64(p.options.Rate) * float64(time.Second)))
	return wait(ctx, time.Until(due))
}

// ahead reads the next page while the one before is dealt with.
func ahead[T any](ctx context.Context, pages func(ctx context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	type read struct {
		page T
		err  error
	}
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		next := make(chan read, 1)
		go func() {
			defer close(next)
			for page, err := range pages(ctx) {
				select {
				case next <- read{page, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer func() {
			cancel()
			for range next { // until the reader has ended
			}
		}()
		for r := range next {
			if !yield(r.page, r.err) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // the reader may have ended before it could say so
			var none T
			yield(none, err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// header is the first line of a diff: model, time and, by stage, the queue or what else a stage announces.
type header struct {
	model, time, more string
}

func newHeader(model, more string) header {
	return header{model, envelope.FormatTime(time.Now()), more}
}

func (h header) String() string {
	line := h.model + "," + h.time
	if h.more != "" {
		line += "," + h.more
	}
	return line
}

// at is when the first stage began; zero if that cannot be read.
func (h header) at() time.Time {
	t, _ := envelope.ParseTime(h.time)
	return t
}

// ErrNotADiff says that the input is not the output of the stage before.
var ErrNotADiff = errors.New("the first line is not MODEL,TIME as diff commands write it")

func parseHeader(line []byte) (header, error) {
	parts := bytes.SplitN(bytes.TrimSpace(line), []byte(","), 3)
	if len(parts) < 2 {
		return header{}, fmt.Errorf("line 1: %w", ErrNotADiff)
	}
	h := header{model: string(parts[0]), time: string(parts[1])}
	if len(parts) == 3 {
		h.more = string(parts[2])
	}
	if err := envelope.CheckModel(h.model); err != nil {
		return header{}, fmt.Errorf("line 1: %w: model %w", ErrNotADiff, err)
	}
	return h, nil
}

// maxLine bounds what is read as one line.
const maxLine = 256 << 20

// lines reads lines of any length up to maxLine, and counts them.
type lines struct {
	scanner *bufio.Scanner
	number  int
}

func newLines(r io.Reader) *lines {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine)
	return &lines{scanner: s}
}

// next returns the next line that is not empty; ok is false at the end. The line is overwritten by the next call.
func (l *lines) next() (line []byte, ok bool, err error) {
	for l.scanner.Scan() {
		l.number++
		if line = bytes.TrimSpace(l.scanner.Bytes()); len(line) > 0 {
			return line, true, nil
		}
	}
	if err := l.scanner.Err(); err != nil {
		return nil, false, fmt.Errorf("read line %d: %w", l.number+1, err)
	}
	return nil, false, nil
}

// keys reads a line of keys: a JSON array.
func keys(line []byte, number int) ([]json.RawMessage, error) {
	var pks []json.RawMessage
	if err := json.Unmarshal(line, &pks); err != nil {
		return nil, fmt.Errorf("line %d: want a JSON array of keys: %w", number, err)
	}
	for i, pk := range pks {
		if _, err := envelope.KeyOf(pk); err != nil {
			return nil, fmt.Errorf("line %d: key %d: %w", number, i+1, err)
		}
	}
	return pks, nil
}

// out writes lines; the first error sticks.
type out struct {
	*bufio.Writer
	header header
	opened bool
}

func newOut(w io.Writer, h header) *out {
	return &out{Writer: bufio.NewWriterSize(w, 64<<10), header: h}
}

// open writes the first line, once.
func (o *out) open() {
	if !o.opened {
		o.opened = true
		_, _ = o.WriteString(o.header.String() + "\n") // Flush returns the error
	}
}

// keys writes a line of keys, and none if there are none.
func (o *out) keys(pks []json.RawMessage) error {
	if len(pks) == 0 {
		return nil
	}
	o.open()
	separator := byte('[')
	for _, pk := range pks {
		_ = o.WriteByte(separator)
		_, _ = o.Write(pk)
		separator = ','
	}
	_, _ = o.WriteString("]\n")
	return o.Flush()
}
