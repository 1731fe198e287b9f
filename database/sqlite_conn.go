package database

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

// fileConn is a connection of the pool. Its handle is opened with the first statement. What writes
// waits for its turn first.
type fileConn struct {
	connector *fileConnector
	conn      sqliteConn // nil until it is opened
	identity  sqlitefile.Identity

	turn    *turn // that of the transaction under way, if it may write
	reading bool  // a transaction under way may not
	raw     bool  // the transaction was begun by a statement
	broken  bool  // a pragma was not taken back
}

func (c *fileConn) ensure(ctx context.Context) (err error) {
	if c.conn != nil {
		return nil
	}
	c.conn, c.identity, err = c.connector.open(ctx)
	return err
}

// permit is what a statement needs before it runs.
type permit struct {
	conn *fileConn
	turn *turn // nil for one that only reads
	own  bool  // the turn is the statement's, and not its transaction's
}

// permit waits for the turn to write if the statement needs one.
func (c *fileConn) permit(ctx context.Context, writes bool) (p permit, err error) {
	p = permit{conn: c, turn: c.turn}
	if c.turn == nil && writes && !c.reading && c.connector.mode != modeRead {
		if p.turn, err = c.connector.turns.take(ctx, "a statement"); err != nil {
			return p, err
		}
		p.own = true
	}
	if p.turn != nil {
		p.turn.begin()
	}
	if err := c.ensure(ctx); err != nil {
		return p, p.done(err)
	}
	return p, nil
}

// done ends what permit began, and says whether what was written is where it belongs.
func (p permit) done(err error) error {
	err = sqlitefile.Explain(p.conn.connector.path, err)
	switch {
	case p.own:
		p.turn.giveBack(err)
		if err == nil {
			err = p.conn.identity.Moved()
		}
	case p.turn != nil:
		p.turn.end()
	}
	return err
}

// BeginTx implements driver.ConnBeginTx.
func (c *fileConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if opts.ReadOnly || c.connector.mode == modeRead {
		return c.beginRead(ctx)
	}
	t, err := c.connector.turns.take(ctx, "a transaction")
	if err != nil {
		return nil, err
	}
	t.begin()
	if err = c.ensure(ctx); err == nil {
		var tx driver.Tx
		if tx, err = c.conn.BeginTx(ctx, opts); err == nil {
			t.end()
			c.turn = t
			return fileTx{c, tx}, nil
		}
	}
	err = sqlitefile.Explain(c.connector.path, err)
	t.giveBack(err)
	return nil, err
}

// beginRead begins a transaction that waits for nobody, and may not write: a write could not take
// its turn any more.
func (c *fileConn) beginRead(ctx context.Context) (driver.Tx, error) {
	if err := c.ensure(ctx); err != nil {
		return nil, err
	}
	var tx driver.Tx
	_, err := c.conn.ExecContext(ctx, "PRAGMA query_only = 1", nil)
	if err == nil {
		tx, err = c.conn.BeginTx(ctx, driver.TxOptions{ReadOnly: true})
	}
	if err != nil { // one that was cancelled may have come through all the same
		return nil, errors.Join(sqlitefile.Explain(c.connector.path, err), c.endRead())
	}
	c.reading = true
	return fileTx{c, tx}, nil
}

func (c *fileConn) endRead() error {
	c.reading = false
	_, err := c.conn.ExecContext(context.Background(), "PRAGMA query_only = 0", nil)
	c.broken = c.broken || err != nil
	return err
}

// fileTx is a transaction of a fileConn.
type fileTx struct {
	conn *fileConn
	tx   driver.Tx
}

// Commit implements driver.Tx. A commit to a file that is gone is an error: nobody will find what
// it wrote.
func (t fileTx) Commit() error {
	if t.conn.turn != nil {
		t.conn.turn.begin()
	}
	err := t.end(t.tx.Commit())
	if err == nil {
		err = t.conn.identity.Moved()
	}
	return err
}

// Rollback implements driver.Tx.
func (t fileTx) Rollback() error { return t.end(t.tx.Rollback()) }

func (t fileTx) end(err error) error {
	err = sqlitefile.Explain(t.conn.connector.path, err)
	if t.conn.turn != nil {
		t.conn.turn.giveBack(err)
		t.conn.turn = nil
		return err
	}
	return errors.Join(err, t.conn.endRead())
}

// ExecContext implements driver.ExecerContext.
func (c *fileConn) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	kind := kindOf(query)
	if kind == begins && c.turn == nil && !c.reading && c.connector.mode != modeRead {
		return c.beginRaw(ctx, query, args)
	}
	p, err := c.permit(ctx, kind == writes)
	if err != nil {
		return nil, err
	}
	result, err := c.conn.ExecContext(ctx, query, args)
	err = p.done(err)
	if kind == ends && c.raw && err == nil {
		c.raw = false
		c.turn.giveBack(nil)
		c.turn = nil
	}
	return result, err
}

// beginRaw runs BEGIN as a statement, on a sql.Conn that somebody holds.
func (c *fileConn) beginRaw(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	t, err := c.connector.turns.take(ctx, "a transaction")
	if err != nil {
		return nil, err
	}
	t.begin()
	err = c.ensure(ctx)
	var result driver.Result
	if err == nil {
		result, err = c.conn.ExecContext(ctx, query, args)
	}
	if err != nil {
		err = sqlitefile.Explain(c.connector.path, err)
		t.giveBack(err)
		return nil, err
	}
	t.end()
	c.turn, c.raw = t, true
	return result, nil
}

// QueryContext implements driver.QueryerContext. A write that returns rows keeps its turn until
// they are closed: so long SQLite keeps its lock.
func (c *fileConn) QueryContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	p, err := c.permit(ctx, kindOf(query) == writes)
	if err != nil {
		return nil, err
	}
	rows, err := c.conn.QueryContext(ctx, query, args)
	return p.rows(rows, err)
}

func (p permit) rows(rows driver.Rows, err error) (driver.Rows, error) {
	full, ok := rows.(sqliteRows)
	if err != nil || !ok || !p.own {
		return rows, p.done(err)
	}
	p.turn.linger("a statement whose rows are not closed")
	return &turnRows{sqliteRows: full, permit: &p}, nil
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *fileConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.ensure(ctx); err != nil {
		return nil, err
	}
	stmt, err := c.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, sqlitefile.Explain(c.connector.path, err)
	}
	return &fileStmt{Stmt: stmt, conn: c, writes: kindOf(query) == writes}, nil
}

// Prepare and Begin implement driver.Conn; database/sql calls those above.
func (c *fileConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// Begin implements driver.Conn.
func (c *fileConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// Ping implements driver.Pinger: it opens the file.
func (c *fileConn) Ping(ctx context.Context) error {
	if err := c.ensure(ctx); err != nil {
		return err
	}
	_, err := c.conn.ExecContext(ctx, sqlitefile.Touch, nil)
	return sqlitefile.Explain(c.connector.path, err)
}

// ResetSession implements driver.SessionResetter. A handle of a file that is gone is closed.
func (c *fileConn) ResetSession(ctx context.Context) error {
	if c.conn == nil {
		return nil
	}
	if c.identity.Moved() != nil {
		return driver.ErrBadConn
	}
	return c.conn.ResetSession(ctx)
}

// IsValid implements driver.Validator. A transaction that nobody ended is rolled back by closing
// the handle.
func (c *fileConn) IsValid() bool {
	return !c.broken && !c.raw && (c.conn == nil || c.conn.IsValid())
}

// Close implements driver.Conn.
func (c *fileConn) Close() error {
	var err error
	if c.conn != nil {
		err = c.conn.Close()
	}
	if c.turn != nil {
		c.turn.giveBack(nil)
		c.turn = nil
	}
	return err
}
