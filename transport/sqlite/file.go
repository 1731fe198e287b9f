package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/transport"
)

// lockTimeout is how long a writer waits for its turn.
const lockTimeout = 10 * time.Second

// files are those open in this process, by path. Sharing one between all its publishers and subscribers saves
// connections and polls, makes writers queue up in order instead of polling for SQLite's lock, and lets a publisher
// wake the subscribers beside it at once. Two names for one file are two files here, which is slower but as correct.
var files = struct {
	sync.Mutex
	open map[string]*file
}{open: map[string]*file{}}

// file is a broker file as this process has it open.
type file struct {
	path           string
	users          int // publishers and subscribers; guarded by files
	writer, reader *sql.DB
	prepared       atomic.Pointer[statements] // nil until the tables are there

	mu        sync.Mutex
	consumers map[*consumer]struct{}

	watchOnce sync.Once
	watching  sync.WaitGroup
	closing   context.Context
	close     context.CancelFunc
}

// open does not touch the disk: the first statement does.
func open(path string) (*file, error) {
	files.Lock()
	defer files.Unlock()
	f := files.open[path]
	if f == nil {
		f = &file{path: path, consumers: map[*consumer]struct{}{}}
		f.closing, f.close = context.WithCancel(context.Background())
		var err error
		if f.writer, err = connect(path); err != nil {
			return nil, err
		}
		if f.reader, err = connect(path); err != nil {
			return nil, errors.Join(err, f.writer.Close())
		}
		files.open[path] = f
	}
	f.users++
	return f, nil
}

// connect returns a pool of one connection: a writer's place in the queue for it is its place in the queue for the
// lock, and the reader's data_version means something on one connection only.
func connect(path string) (*sql.DB, error) {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/… in a URL
	}
	location := url.URL{Scheme: "file", Path: path}
	db, err := sql.Open("sqlite", fmt.Sprintf("%s?_txlock=immediate&_pragma=busy_timeout(%d)",
		location.String(), lockTimeout.Milliseconds()))
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
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
	if err := errors.Join(f.reader.Close(), f.writer.Close()); err != nil {
		return fmt.Errorf("close SQLite file %s: %w", f.path, err)
	}
	return nil
}

// durability says whether a transaction must survive a power failure, as SQLite's "synchronous" does.
type durability string

const (
	// durable waits for the disk: what was published stays published.
	durable durability = "FULL"
	// quick does not. It is enough for taking messages and acknowledging them: all consumers die with the power, and a
	// lost ack is one more delivery.
	quick durability = "NORMAL"
)

// write runs do in a transaction that holds the write lock from its beginning.
func (f *file) write(ctx context.Context, d durability, do func(context.Context, transaction) error) error {
	if err := f.prepare(ctx); err != nil {
		return f.unavailable(err)
	}
	return f.unavailable(f.transact(ctx, d, do))
}

func (f *file) transact(ctx context.Context, d durability, do func(context.Context, transaction) error) error {
	conn, err := f.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = "+string(d)); err != nil {
		return err
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	// The driver starts a goroutine for every statement that could be cancelled. Here each takes microseconds, and the
	// transaction ends with ctx all the same.
	if err := do(context.WithoutCancel(ctx), transaction{tx, f.prepared.Load()}); err != nil {
		return err
	}
	return tx.Commit()
}

// unavailable marks what a publisher may try again: with a file, that is everything.
func (f *file) unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: SQLite file %s: %w", transport.ErrUnavailable, f.path, err)
}
