package database

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

// turns are the order in which this process writes to a SQLite file. SQLite has one writer at a
// time, and lets those who wait try again and again, in no order; a process in which many write
// would starve some.
type turns struct {
	path string
	key  string
	uses int // of allTurns

	mu      sync.Mutex
	holder  *turn
	waiting []*waiter
}

type waiter struct {
	granted chan struct{} // is closed
	failed  chan error    // holds one
	since   time.Time
	turn    *turn // that it will have
}

// turn is the right to write. Its holder says when it is at work, so that one that stands still
// does not stop the others for ever.
type turn struct {
	of    *turns
	what  string
	begun []uintptr // the callers that began it

	goroutine atomic.Uint64 // that used it last
	running   atomic.Int32
	used      atomic.Int64 // when, in nanoseconds of the process
}

// NestedWriteError says that a goroutine, which has a write transaction of a SQLite file open,
// writes to the file through the database, beside the transaction: it would wait for itself for
// ever. Nothing was written.
type NestedWriteError struct {
	File string
	// Open is what the goroutine has open: a transaction, or a statement whose rows are not closed.
	Open string
	// Begun says where the transaction was begun.
	Begun string
}

func (e *NestedWriteError) Error() string {
	return fmt.Sprintf("SQLite file %s: this goroutine has %s open, begun at %s, and writes "+
		"through the database beside it, which would wait for that for ever: write with the "+
		"transaction (tx in place of db), or end it first",
		e.File, e.Open, e.Begun)
}

// allTurns are those of the files that are open in this process.
var allTurns = struct {
	sync.Mutex
	byFile map[string]*turns
}{byFile: map[string]*turns{}}

// turnsOf returns the turns of a file, which all pools of the process share. leave gives them back.
func turnsOf(path string) *turns {
	key := path
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		key = resolved
	} else if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		key = filepath.Join(folder, filepath.Base(path))
	}
	allTurns.Lock()
	defer allTurns.Unlock()
	t := allTurns.byFile[key]
	if t == nil {
		t = &turns{path: path, key: key}
		allTurns.byFile[key] = t
	}
	t.uses++
	return t
}

func (q *turns) leave() {
	allTurns.Lock()
	defer allTurns.Unlock()
	if q.uses--; q.uses == 0 {
		delete(allTurns.byFile, q.key)
	}
}

// take waits for the turn. It fails at once where the goroutine has it already, and after a while
// where its holder does nothing.
func (q *turns) take(ctx context.Context, what string) (*turn, error) {
	t := &turn{of: q, what: what, begun: callers()}
	me := goroutine()
	t.goroutine.Store(me)
	w, err := q.stand(t)
	if w == nil {
		return t, err
	}

	look := time.NewTicker(sqlitefile.LockTimeout / 20)
	defer look.Stop()
	for {
		var err error
		select {
		case <-w.granted:
			return t, nil
		case err = <-w.failed:
			return nil, err
		case <-ctx.Done():
			err = fmt.Errorf("wait to write to SQLite file %s: %w", q.path, ctx.Err())
		case <-look.C:
			err = q.stuck(w)
		}
		if err != nil && q.withdraw(w) {
			return nil, err
		}
	}
}

// stand gives the turn to t at once, or returns where it waits.
func (q *turns) stand(t *turn) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.holder
	if h == nil {
		q.pass(t)
		return nil, nil
	}
	if me := t.goroutine.Load(); me != 0 && me == h.goroutine.Load() {
		return nil, &NestedWriteError{File: q.path, Open: h.what, Begun: h.place()}
	}
	w := &waiter{granted: make(chan struct{}), failed: make(chan error, 1), since: time.Now(),
		turn: t}
	q.waiting = append(q.waiting, w)
	return w, nil
}

func (q *turns) pass(t *turn) {
	t.used.Store(int64(sinceStart()))
	q.holder = t
}

// stuck says that the holder has done nothing for as long as a writer waits.
func (q *turns) stuck(w *waiter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.holder
	if h == nil || h.running.Load() > 0 || time.Since(w.since) < sqlitefile.LockTimeout {
		return nil
	}
	if idle := sinceStart() - time.Duration(h.used.Load()); idle < sqlitefile.LockTimeout {
		return nil
	}
	return &BusyError{File: q.path, Holder: h.what +
		" of this process that does nothing, begun at " + h.place()}
}

// withdraw takes a waiter out, unless it has been served meanwhile.
func (q *turns) withdraw(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, w)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// begin and end enclose a statement of the holder.
func (t *turn) begin() {
	t.running.Add(1)
	t.goroutine.Store(goroutine())
}

func (t *turn) end() {
	t.used.Store(int64(sinceStart()))
	t.running.Add(-1)
}

// linger says that the holder goes on without being at work.
func (t *turn) linger(as string) {
	t.of.mu.Lock()
	t.what = as
	t.of.mu.Unlock()
	t.end()
}

// giveBack passes the turn on. If its holder found the file locked by others, those who have waited
// for as long need not find out each for itself.
func (t *turn) giveBack(err error) {
	q := t.of
	q.mu.Lock()
	defer q.mu.Unlock()
	if sqlitefile.IsBusy(err) {
		q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
			late := time.Since(w.since) >= sqlitefile.LockTimeout
			if late {
				w.failed <- err
			}
			return late
		})
	}
	q.holder = nil
	if len(q.waiting) > 0 {
		next := q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		q.pass(next.turn)
		close(next.granted)
	}
}

var processStart = time.Now()

func sinceStart() time.Duration { return time.Since(processStart) }

// goroutine returns the number of the running goroutine. Nothing but this package's refusal rests
// on it.
func goroutine() uint64 {
	var buffer [40]byte
	text := bytes.TrimPrefix(buffer[:runtime.Stack(buffer[:], false)], []byte("goroutine "))
	digits, _, _ := bytes.Cut(text, []byte(" "))
	number, _ := strconv.ParseUint(string(digits), 10, 64) // 0: nobody's
	return number
}

func callers() []uintptr {
	var pcs [24]uintptr
	return slices.Clone(pcs[:runtime.Callers(3, pcs[:])])
}

// place names the code that began it: the first that belongs to no library.
func (t *turn) place() string {
	frames := runtime.CallersFrames(t.begun)
	for {
		frame, more := frames.Next()
		isOurs := strings.HasPrefix(frame.Function, "github.com/cqrsync/cqrsync/") &&
			!strings.HasSuffix(frame.File, "_test.go") &&
			!strings.Contains(frame.Function, "/examples/") &&
			!strings.Contains(frame.Function, "/tests/")
		isLibrary := isOurs || strings.HasPrefix(frame.Function, "database/sql.") ||
			strings.HasPrefix(frame.Function, "github.com/uptrace/bun")
		if frame.Function != "" && !isLibrary {
			return fmt.Sprintf("%s:%d", filepath.Base(frame.File), frame.Line)
		}
		if !more {
			return "a place that is not known"
		}
	}
}
