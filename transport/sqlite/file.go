package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
	"github.com/cqrsync/cqrsync/transport"
)

// files are those open in this process, by path. Sharing one between all its publishers and
// subscribers saves connections and polls, makes writers queue up in order instead of polling for
// SQLite's lock, and lets a publisher wake the subscribers beside it at once. Two names for one
// file are two files here, which is slower but as correct.
var files = struct {
	sync.Mutex
	open map[string]*file
}{open: map[string]*file{}}

// file is what stands at a broker's path. Which file that is may change: it may be deleted, and
// made or restored again.
type file struct {
	path   string
	logger *slog.Logger // its first user's
	users  int          // publishers and subscribers; guarded by files

	opening chan struct{} // holds one while somebody opens it

	mu         sync.Mutex
	consumers  map[*consumer]struct{}
	current    *handle // nil while none is open
	generation int64   // how many were opened
	gone       time.Time

	watchOnce sync.Once
	watching  sync.WaitGroup
	closing   context.Context
	close     context.CancelFunc
}

// wanted says what is to happen where there is no file.
type wanted bool

const (
	// existing makes none: who makes it is a consumer, because only then somebody reads it.
	existing wanted = false
	made     wanted = true
)

// open does not touch the disk: the first statement does.
func open(config Config) *file {
	files.Lock()
	defer files.Unlock()
	f := files.open[config.Path]
	if f == nil {
		f = &file{
			path: config.Path, logger: config.Logger,
			consumers: map[*consumer]struct{}{}, opening: make(chan struct{}, 1),
		}
		f.closing, f.close = context.WithCancel(context.Background())
		files.open[config.Path] = f
	}
	f.users++
	return f
}

// release is called once by each user; the last one closes the file.
func (f *file) release() error {
	files.Lock()
	defer files.Unlock()
	f.users--
	if f.users > 0 {
		return nil
	}
	delete(files.open, f.path)
	f.close()
	f.watching.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current == nil {
		return nil
	}
	err := f.current.close()
	f.current = nil
	return err
}

// remakeAfter is how long a file must be gone before consumers make a new one: whoever restores a
// backup in two steps should not find another file in its place.
const remakeAfter = 2 * time.Second

// open returns the file that stands at the path, opened.
func (f *file) open(ctx context.Context, want wanted) (*handle, error) {
	if h := f.opened(); h != nil {
		return h, nil
	}
	select {
	case f.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-f.opening }()
	if h := f.opened(); h != nil {
		return h, nil
	}
	before, err := sqlitefile.Identify(f.path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && want == existing:
		return nil, fmt.Errorf("it does not exist: a replica makes it when it starts; start it "+
			"once, or check the path: %w", err)
	case missing && f.goneFor() < remakeAfter:
		return nil, fmt.Errorf("it is gone: a new one is made soon if it is not put back: %w", err)
	case err != nil && !missing:
		return nil, err
	}
	h, err := newHandle(ctx, f.path, want)
	if err != nil {
		return nil, err
	}
	if !missing && !h.identity.Load().Same(before) {
		return nil, errors.Join(&sqlitefile.MovedError{File: f.path}, h.close())
	}
	if missing {
		f.logger.InfoContext(ctx, "made the broker's file: relays must publish to this one", "file",
			f.path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	h.generation = f.generation
	f.current = h
	return h, nil
}

func (f *file) opened() *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// goneFor says how long the file has been known to be gone; a new one is not known at all.
func (f *file) goneFor() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone.IsZero() {
		return remakeAfter
	}
	return time.Since(f.gone)
}

// check returns an error if the path does not lead to the handle's file any more, and lets go of it
// then. What was written to it since is lost.
func (f *file) check(ctx context.Context, h *handle) error {
	moved := h.identity.Load().Moved()
	if moved == nil {
		return nil
	}
	f.mu.Lock()
	first := f.current == h
	if first {
		f.current, f.gone = nil, time.Now()
	}
	f.mu.Unlock()
	if first {
		f.logger.ErrorContext(ctx,
			"the broker's file was deleted or replaced while it was open: messages that waited in "+
				"it are lost unless it is put back; find what replicas miss with relay diff",
			"file", f.path, "waiting", h.waiting(ctx), "error", moved)
		if err := h.close(); err != nil {
			f.logger.DebugContext(ctx, "closing the file that is gone failed", "file", f.path,
				"error", err)
		}
		f.wake()
	}
	return moved
}

// durability says whether a transaction must survive a power failure, as SQLite's "synchronous"
// does.
type durability string

const (
	// durable waits for the disk: what was published stays published.
	durable durability = "FULL"
	// quick does not. It is enough for taking messages and acknowledging them: all consumers die
	// with the power, and a lost ack is one more delivery.
	quick durability = "NORMAL"
)

// write runs do in a transaction that holds the write lock from its beginning. When it returns nil,
// what was written is in the file that stands at the path.
func (f *file) write(
	ctx context.Context, want wanted, d durability, do func(context.Context, transaction) error,
) error {
	h, err := f.open(ctx, want)
	if err == nil {
		err = f.check(ctx, h)
	}
	if err == nil {
		err = errors.Join(h.transact(ctx, d, do), f.check(ctx, h))
	}
	return f.unavailable(err)
}

// unavailable marks what a publisher may try again: with a file, that is everything.
func (f *file) unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: SQLite file %s: %w", transport.ErrUnavailable, f.path,
		sqlitefile.Explain(f.path, err))
}
