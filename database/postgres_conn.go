package database

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// pgxConnector makes connections that return the error of a context that is over. pgx's own say
// "bad connection" then, where database/sql does not look at the context first, which is on a
// *sql.Conn: the caller would not learn why, and lose the connection with all that hangs on it,
// such as advisory locks. The outbox refuses statements by their context.
type pgxConnector struct{ driver.Connector }

// Connect implements driver.Connector.
func (c pgxConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if pgxs, is := conn.(*stdlib.Conn); is && err == nil {
		return &pgxConn{pgxs}, nil
	}
	return conn, err
}

// pgxConn is what (*sql.Conn).Raw hands out. Its Conn is the connection of pgx, as with
// *stdlib.Conn.
type pgxConn struct{ *stdlibConn }

// stdlibConn is embedded under this name, because a field Conn would hide the method.
type stdlibConn = stdlib.Conn

var (
	_ driver.ExecerContext          = (*pgxConn)(nil)
	_ driver.QueryerContext         = (*pgxConn)(nil)
	_ driver.ConnPrepareContext     = (*pgxConn)(nil)
	_ driver.ConnBeginTx            = (*pgxConn)(nil)
	_ driver.Pinger                 = (*pgxConn)(nil)
	_ driver.SessionResetter        = (*pgxConn)(nil)
	_ driver.NamedValueChecker      = (*pgxConn)(nil)
	_ interface{ Conn() *pgx.Conn } = (*pgxConn)(nil)
)

// ExecContext implements driver.ExecerContext.
func (c *pgxConn) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.stdlibConn.ExecContext(ctx, query, args)
}

// QueryContext implements driver.QueryerContext.
func (c *pgxConn) QueryContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.stdlibConn.QueryContext(ctx, query, args)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *pgxConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.stdlibConn.PrepareContext(ctx, query)
}
