package operate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
)

// header is the first line of a diff: model, time, which stage ends it with a mark and, by stage,
// the queue or what else it announces. The time is by the clock of the database that was listed,
// and is compared with no other clock.
type header struct {
	model, time string
	// end is the stage that ends the stream with a mark: a Django stage behind it passes the word
	// on, and writes no mark.
	end, more string
}

// newHeader asks the side that is about to be listed for the time: what changes from now on may or
// may not be listed.
func newHeader(ctx context.Context, model, stage string, side interface {
	Now(ctx context.Context) (time.Time, error)
}) (header, error) {
	now, err := side.Now(ctx)
	return header{model: model, time: envelope.FormatTime(now), end: stage}, err
}

func (h header) String() string {
	line := h.model + "," + h.time
	if h.end != "" {
		line += "," + announcesEnd + h.end
	}
	if h.more != "" {
		line += "," + h.more
	}
	return line
}

// at is when the first stage began, by the clock of its database.
func (h header) at() time.Time {
	t, _ := envelope.ParseTime(h.time) // a header whose time cannot be read is none
	return t
}

// by is the header that a stage writes: the same diff, with a mark of its own.
func (h header) by(stage, more string) header {
	return header{model: h.model, time: h.time, end: stage, more: more}
}

// The stages whose streams have an end mark.
const (
	stageDump               = "dump"
	stageDiffMaster         = "diff-master"
	stageDiffReplica        = "diff-replica"
	stageDeletedDiffReplica = "deleted-diff-replica"
	stageDeletedDiffMaster  = "deleted-diff-master"
)

// announcesEnd stands before the stage that ends the stream with a mark.
const announcesEnd = "end="

// endMark is the last line of a stage that came to its end: a list of nothing, which Django's
// stages read and pass over. Without it a stage that failed would look like one that found nothing.
const endMark = "[]"

// ErrNotADiff says that the input is not the output of the stage before.
var ErrNotADiff = errors.New("the first line is not MODEL,TIME as diff commands write it")

// ErrEmptyInput says that not even the first line came.
var ErrEmptyInput = errors.New("the input is empty: the stage before failed, or was not run; " +
	"only one of django-cqrs writes nothing where it finds nothing")

// CutShortError says that the stage before did not come to its end. What came of it was dealt with,
// unless the operation deletes.
type CutShortError struct{ Stage string }

func (e *CutShortError) Error() string {
	return "the input ends before its end mark: " + e.Stage + " failed, was interrupted or left " +
		"rows out; see what it says, and set -o pipefail"
}

func parseHeader(line []byte) (header, error) {
	parts := bytes.SplitN(bytes.TrimSpace(line), []byte(","), 3)
	if len(parts) < 2 {
		return header{}, fmt.Errorf("line 1: %w", ErrNotADiff)
	}
	h := header{model: string(parts[0]), time: string(parts[1])}
	if len(parts) == 3 {
		h.more = string(parts[2])
	}
	if rest, announced := strings.CutPrefix(h.more, announcesEnd); announced {
		h.end, h.more, _ = strings.Cut(rest, ",")
	}
	if err := envelope.CheckModel(h.model); err != nil {
		return header{}, fmt.Errorf("line 1: %w: model %w", ErrNotADiff, err)
	}
	// Without it nobody knows what changed since, and nothing would be deleted without a word.
	if _, err := envelope.ParseTime(h.time); err != nil {
		return header{}, fmt.Errorf("line 1: %w: the time at which it was listed, behind the "+
			"model: %w", ErrNotADiff, err)
	}
	return h, nil
}

// maxLine bounds what is read as one line.
const maxLine = 256 << 20

// lines reads lines of any length up to maxLine, and counts them.
type lines struct {
	scanner *bufio.Scanner
	number  int
	// stage ends with mark, if it came to its end; empty where no mark is to come.
	stage, mark string
	ended       bool
	// needs is the first stage of a diff, which has a line behind its header, or no header; empty
	// for the others.
	needs string
	some  bool // there was a line behind the header
}

func newLines(r io.Reader) *lines {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine)
	return &lines{scanner: s}
}

// next returns the next line that is not empty; ok is false at the end. The line is overwritten by
// the next call.
func (l *lines) next() (line []byte, ok bool, err error) {
	for l.scanner.Scan() {
		l.number++
		line = bytes.TrimSpace(l.scanner.Bytes())
		switch {
		case len(line) == 0:
		case l.ended:
			return nil, false, fmt.Errorf("line %d: there is something behind the end mark",
				l.number)
		case l.stage != "" && string(line) == l.mark:
			l.ended = true
		default:
			l.some = l.number > 1
			return line, true, nil
		}
	}
	if err := l.scanner.Err(); err != nil {
		return nil, false, fmt.Errorf("read line %d: %w", l.number+1, err)
	}
	return nil, false, nil
}

// header reads the first line of what stage writes; ok is false where there is nothing to read, and
// that is allowed.
func (l *lines) header(stage string, o Options) (h header, ok bool, err error) {
	line, ok, err := l.next()
	switch {
	case err != nil:
		return h, false, err
	case !ok && o.AllowEmpty:
		return h, false, nil
	case !ok:
		return h, false, ErrEmptyInput
	}
	h, err = parseHeader(line)
	switch {
	case o.unmarked: // the stages tell each other of their errors
	case h.end == stage:
		l.stage, l.mark = stage, endMark
	case stage == stageDiffMaster, stage == stageDeletedDiffReplica:
		l.needs = stage
	}
	return h, err == nil, err
}

// HeaderOnlyError says that a first stage, one of django-cqrs, wrote its header and nothing behind
// it. It looks first whether there is anything, and writes no header where there is not: so it has
// failed since.
type HeaderOnlyError struct{ Stage string }

func (e *HeaderOnlyError) Error() string {
	return "there is no line behind the first: " + e.Stage + " failed or was interrupted, " +
		"because a stage of django-cqrs that finds nothing does not even write the first; see " +
		"what it says, and set -o pipefail"
}

// complete fails where a mark was announced and did not come, and where a stage without one wrote
// no line.
func (l *lines) complete() error {
	switch {
	case l.stage != "" && !l.ended:
		return &CutShortError{l.stage}
	case l.needs != "" && !l.some:
		return &HeaderOnlyError{l.needs}
	}
	return nil
}

// eachKeys hands on the keys of each line after the first, but for those that an earlier run dealt
// with. It fails in the end where the stage before did.
func (l *lines) eachKeys(
	ctx context.Context, o Options, handle func(pks []json.RawMessage) error,
) error {
	p := o.pace()
	for n := 1; ; n++ {
		line, ok, err := l.next()
		if err == nil && !ok {
			return l.complete()
		}
		if err != nil {
			return err
		}
		if n <= o.SkipLines {
			continue
		}
		pks, err := parseKeys(line)
		if err == nil {
			err = handle(pks)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", l.number, err)
		}
		if err := o.reachedLine(n); err != nil {
			return err
		}
		if err := p.add(ctx, len(pks)); err != nil {
			return err
		}
	}
}

// parseKeys reads a line of keys: a JSON array.
func parseKeys(line []byte) ([]json.RawMessage, error) {
	var pks []json.RawMessage
	if err := json.Unmarshal(line, &pks); err != nil {
		return nil, fmt.Errorf("want a JSON array of keys: %w", err)
	}
	for i, pk := range pks {
		if _, err := envelope.KeyOf(pk); err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
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

// end writes the mark, if one was announced and all that belongs before it was written.
func (o *out) end(complete bool) error {
	o.open()
	if complete && o.header.end != "" {
		_, _ = o.WriteString(endMark + "\n") // Flush returns the error
	}
	return o.Flush()
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
