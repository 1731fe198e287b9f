package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/replica"
)

// LoadOptions are those of Load.
type LoadOptions struct {
	Options
	// Clear empties the model's table first. Rows that are there must be no more than
	// Options.MaxDeletes, or Ask must agree.
	Clear bool
	// Ask, if set, is asked where Clear would delete more: nil goes on.
	Ask func(e *TooManyDeletesError) error
	// BadLine, if set, is called for each line that could not be loaded. The line's number counts
	// from 1.
	BadLine func(number int, err error)
}

// Loaded says what became of the lines.
type Loaded struct {
	Model string
	// Lines were read, the first not counted. Applied changed the replica; Unchanged were known to
	// it, or older than what it has; Bad could not be loaded.
	Lines, Applied, Unchanged, Bad int64
}

// Load reads what Dump wrote and takes each line through the replica's gate, as a SYNC: newer
// states are not overwritten, equal revisions are written again. A line that cannot be loaded does
// not undo others.
func Load(ctx context.Context, rep *replica.Replica, r io.Reader, o LoadOptions) (Loaded, error) {
	in := newLines(r)
	first, ok, err := in.next()
	if err != nil || !ok {
		if err == nil {
			err = errors.New("the input is empty: want the output of dump")
		}
		return Loaded{}, err
	}
	model, announced, _ := strings.Cut(string(first), ",")
	if announced == announcesEnd+stageDump {
		in.stage, in.mark = stageDump, dumpMark
	} else {
		model = string(first)
	}
	loaded := Loaded{Model: model}
	if err := envelope.CheckModel(loaded.Model); err != nil {
		return loaded, fmt.Errorf("line 1: want the CQRS id of a model, as dump writes it: %w", err)
	}
	shape, err := mirrored.Of(rep).Model(loaded.Model)
	if err == nil {
		err = mirrored.Of(rep).CheckWrites(ctx, loaded.Model)
	}
	if err == nil && o.Clear && o.SkipLines == 0 {
		err = o.clear(ctx, rep, loaded.Model)
	}
	if err != nil {
		return loaded, err
	}
	l := loader{rep: rep, o: o, loaded: loaded, pk: pkFields(shape)}
	l.pace, l.limit = Options{Progress: o.Progress}.pace(), Options{Rate: o.Rate}.pace()
	if err = l.run(ctx, in); err == nil {
		err = in.complete()
	}
	return l.loaded, err
}

// clear empties the table, if so many rows may go.
func (o LoadOptions) clear(ctx context.Context, rep *replica.Replica, model string) error {
	rows, err := mirrored.Of(rep).Count(ctx, model, math.MaxInt64)
	if err != nil {
		return err
	}
	err = Guard(ctx, rep, model, rows, o.MaxDeletes)
	var tooMany *TooManyDeletesError
	if errors.As(err, &tooMany) && o.Ask != nil {
		err = o.Ask(tooMany)
	}
	if err != nil {
		return err
	}
	return mirrored.Of(rep).Clear(ctx, model)
}

// pkFields are the fields in which an instance carries its key.
func pkFields(shape mirrored.Shape) []string {
	var names []string
	for _, pk := range shape.Key {
		names = append(names, shape.Fields[pk.Name])
	}
	if len(names) == 0 {
		names = []string{"id"}
	}
	return names
}

type loader struct {
	rep    *replica.Replica
	o      LoadOptions
	loaded Loaded
	pace   *pace // of what is written
	limit  *pace // of what is begun
	pk     []string
}

// batchBytes bounds the lines of a batch, if the first is not larger.
const batchBytes = 4 << 20

// batch is lines that are applied together.
type batch struct {
	messages []*envelope.Message
	numbers  []int // of their lines
	bad      []badLine
	bytes    int
	end      int // the lines after the first that are dealt with after this batch

	applied chan struct{} // closed when results and err are there
	results []replica.Result
	err     error
}

type badLine struct {
	number int
	err    error
}

// run reads and parses while the batches before are written, several at once: the gate does not
// need their order, and rows that point to others have a second chance.
func (l *loader) run(ctx context.Context, in *lines) error {
	group, ctx := errgroup.WithContext(ctx)
	batches := make(chan *batch, 1)
	write := func(b *batch) error {
		b.applied = make(chan struct{})
		group.Go(func() error {
			defer close(b.applied)
			b.results, b.err = l.rep.Apply(ctx, b.messages)
			return b.err
		})
		select {
		case batches <- b:
			return l.limit.add(ctx, len(b.messages))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	group.Go(func() error {
		defer close(batches)
		return l.read(in, write)
	})
	group.Go(func() error {
		for b := range batches {
			if err := l.finish(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

func (l *loader) read(in *lines, write func(*batch) error) error {
	size := l.o.pageSize(statePage)
	b := &batch{}
	read := 0
	for {
		line, ok, err := in.next()
		if err != nil {
			return err
		}
		if !ok {
			if b.end > 0 {
				return write(b)
			}
			return nil
		}
		if read++; read <= l.o.SkipLines {
			continue
		}
		if m, err := l.message(line); err != nil {
			b.bad = append(b.bad, badLine{in.number, err})
		} else {
			b.messages, b.numbers = append(b.messages, m), append(b.numbers, in.number)
		}
		b.end = read
		b.bytes += len(line)
		if len(b.messages)+len(b.bad) >= size || b.bytes >= batchBytes {
			if err := write(b); err != nil {
				return err
			}
			b = &batch{}
		}
	}
}

// message reads a line with the leniency that messages are read with.
func (l *loader) message(line []byte) (*envelope.Message, error) {
	if line[0] != '{' {
		return nil, errors.New("want a JSON object")
	}
	head := `{"signal_type":"SYNC","cqrs_id":"` + l.loaded.Model +
		`","instance_pk":null,"instance_data":`
	body := slices.Concat([]byte(head), line, []byte("}"))
	m, err := envelope.Decode(body, nil)
	if err != nil {
		return nil, err
	}
	fields, err := m.Fields()
	if err != nil {
		return nil, err
	}
	parts := make([][]byte, len(l.pk))
	for i, name := range l.pk {
		if parts[i] = fields[name]; parts[i] == nil {
			return nil, fmt.Errorf("field %q with the primary key is missing", name)
		}
	}
	m.PK = parts[0]
	if len(parts) > 1 {
		m.PK = json.RawMessage("[" + string(bytes.Join(parts, []byte(","))) + "]")
	}
	if m.Key, err = envelope.KeyOf(m.PK); err != nil {
		return nil, fmt.Errorf("primary key: %w", err)
	}
	return m, nil
}

// finish waits for a batch and accounts for it, in the order of lines.
func (l *loader) finish(ctx context.Context, b *batch) error {
	<-b.applied
	if b.err == nil {
		b.err = l.again(ctx, b)
	}
	if b.err != nil {
		return b.err
	}
	lines := len(b.numbers) + len(b.bad)
	for i, result := range b.results {
		switch {
		case result.Err != nil:
			b.bad = append(b.bad, badLine{b.numbers[i], result.Err})
		case result.Applied:
			l.loaded.Applied++
		default:
			l.loaded.Unchanged++
		}
	}
	slices.SortFunc(b.bad, func(a, b badLine) int { return a.number - b.number })
	for _, bad := range b.bad {
		l.loaded.Bad++
		if l.o.BadLine != nil {
			l.o.BadLine(bad.number, bad.err)
		}
	}
	l.loaded.Lines += int64(lines)
	if err := l.o.reachedLine(b.end); err != nil {
		return err
	}
	return l.pace.add(ctx, lines)
}

// again applies what failed once more, now that the batches before are written, and as long as that
// helps: rows point to rows that were written at the same time.
func (l *loader) again(ctx context.Context, b *batch) error {
	for before := len(b.messages) + 1; ; {
		var messages []*envelope.Message
		var places []int
		for i, result := range b.results {
			if result.Err != nil {
				messages, places = append(messages, b.messages[i]), append(places, i)
			}
		}
		if len(messages) == 0 || len(messages) == before {
			return nil
		}
		before = len(messages)
		results, err := l.rep.Apply(ctx, messages)
		if err != nil {
			return err
		}
		for i, result := range results {
			b.results[places[i]] = result
		}
	}
}
