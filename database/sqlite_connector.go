package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

// fileConnector makes the connections to one file for the pool of database/sql.
type fileConnector struct {
	path, mode string
	connect    func(mode string) (sqliteConn, error)
	turns      *turns

	// one handle is opened at a time: two that switch a new file to WAL meet a lock that nobody
	// waits for
	mu     sync.Mutex
	opened bool // before, so that a file which is not there has been deleted
}

// sqliteConn is what the driver's connections can do.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// Connect opens no file: the first statement does, and for a write not before its turn.
func (c *fileConnector) Connect(context.Context) (driver.Conn, error) {
	return &fileConn{connector: c}, nil
}

// Driver implements driver.Connector.
func (c *fileConnector) Driver() driver.Driver { return &sqlite.Driver{} }

// Close implements io.Closer: the pool is closed.
func (c *fileConnector) Close() error {
	c.turns.leave()
	return nil
}

func openConn(base driver.Connector) (sqliteConn, error) {
	conn, err := base.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	full, ok := conn.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("SQLite's driver has connections of type %T", conn),
			conn.Close())
	}
	if _, err := full.ExecContext(context.Background(), sqlitefile.Touch, nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return full, nil
}

// open opens a handle, and says of which file.
func (c *fileConnector) open(ctx context.Context) (sqliteConn, sqlitefile.Identity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mode := c.mode
	for deadline := time.Now().Add(sqlitefile.LockTimeout); ; {
		_, err := sqlitefile.Identify(c.path)
		switch {
		case err == nil || !errors.Is(err, fs.ErrNotExist):
		case c.opened:
			return nil, sqlitefile.Identity{}, &MovedError{File: c.path, Gone: true}
		case mode != modeCreate:
			return nil, sqlitefile.Identity{}, fmt.Errorf("SQLite file %s does not exist: check "+
				"the path, or make the file first, as relay migrate does: %w", c.path, err)
		}
		conn, err := c.connect(mode)
		if err == nil {
			identity, err := sqlitefile.Identify(c.path)
			if err != nil {
				return nil, identity, errors.Join(err, conn.Close())
			}
			c.opened = true
			return conn, identity, nil
		}
		// Another process that makes the file, or mends it after a crash, does not let SQLite's own
		// wait begin.
		if !sqlitefile.IsBusy(err) || time.Now().After(deadline) {
			return nil, sqlitefile.Identity{}, sqlitefile.Explain(c.path, err)
		}
		select {
		case <-ctx.Done():
			return nil, sqlitefile.Identity{}, fmt.Errorf("open SQLite file %s: %w", c.path,
				ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
