package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// RefusedError is returned for a write to a registered table that cannot be captured, and for a
// statement that is not certain to leave registered tables alone. The statement has not run.
type RefusedError struct {
	// Verb is INSERT, UPDATE, DELETE, MERGE, TRUNCATE or COPY, or the first word of a statement
	// that may write unseen.
	Verb string
	// Table is the registered table, as the statement names it; "" where it names none.
	Table string
	// Reason says why the rows it would touch are unknown.
	Reason string
	// Fix names the call to use instead.
	Fix string
}

func (e *RefusedError) Error() string {
	if e.Table == "" {
		return fmt.Sprintf("outbox: %s refused: %s; %s", e.Verb, e.Reason, e.Fix)
	}
	return fmt.Sprintf("outbox: %s on tracked table %s refused: %s; %s", e.Verb, e.Table, e.Reason,
		e.Fix)
}

const reportIt = "or run it under outbox.Explicit(ctx) and name the rows with Saved or " +
	"Deleted in the same transaction"

func outsideTx(verb, table string) *RefusedError {
	return &RefusedError{verb, table, "it is outside Box.RunInTx, so no message can commit with it",
		"write inside Box.RunInTx with the tx it gives you, " + reportIt}
}

// besideTx is about a statement that waits for the connection of the transaction in which it
// stands.
func besideTx(event *bun.QueryEvent) *RefusedError {
	return &RefusedError{
		Verb: event.Operation(), Reason: "it runs on the database inside RunInTx, whose " +
			"transaction has the only connection of the pool: it would wait for itself for ever",
		Fix: "use tx in place of db",
	}
}

func unseen(verb, table, reason string) *RefusedError {
	return &RefusedError{verb, table, reason,
		"write rows by their primary key through bun (NewInsert().Model(&row), NewUpdate or " +
			"NewDelete().Model(&row).WherePK()), or a WHERE with outbox.BulkUpdate or " +
			"BulkDelete, " + reportIt}
}

// lateWrite refuses what a goroutine, a Filter or a Serializer does when the messages are made.
func lateWrite(event *bun.QueryEvent) *RefusedError {
	return &RefusedError{Verb: firstWord(event),
		Reason: "the transaction is being committed, and its messages are made",
		Fix: "wait for goroutines before the function given to RunInTx returns, and write nothing " +
			"in a Filter or Serializer"}
}

func (m *model) lateReport() *RefusedError {
	return &RefusedError{Verb: "report", Table: m.table.Name,
		Reason: "the transaction is being committed, and its messages are made",
		Fix:    "report and touch rows before the function given to RunInTx returns"}
}

// refuse stops a statement that is in no transaction of a Box: what it returns is the statement's
// context.
//
// A bun query hook cannot return an error. A context that is over stops the statement, and
// database/sql returns its Err, but not from a bun.Conn: there the driver is asked, and pgx says
// "bad connection" and closes it. So a builder's statement is given a connection, too, that returns
// the error whatever the driver is. For raw SQL on a bun.Conn there is no such way: the drivers of
// package database return the context's error, and where another one does not, it is logged.
func refuse(ctx context.Context, event *bun.QueryEvent, err *RefusedError) context.Context {
	conn := refusingConn{event.DB.DB, err}
	switch query := event.IQuery.(type) {
	case *bun.InsertQuery:
		query.Conn(conn)
	case *bun.UpdateQuery:
		query.Conn(conn)
	case *bun.DeleteQuery:
		query.Conn(conn)
	case *bun.MergeQuery:
		query.Conn(conn)
	case *bun.SelectQuery:
		query.Conn(conn)
	case *bun.RawQuery:
		query.Conn(conn)
	case *bun.TruncateTableQuery:
		query.Conn(conn)
	case *bun.DropTableQuery:
		query.Conn(conn)
	}
	if event.Stash == nil {
		event.Stash = map[any]any{}
	}
	event.Stash[refusal{}] = err
	return refusal{ctx, err}
}

// explain says why a statement failed, where its error cannot.
func (b *Box) explain(ctx context.Context, event *bun.QueryEvent) {
	err, refused := event.Stash[refusal{}].(*RefusedError)
	if !refused || errors.As(event.Err, new(*RefusedError)) {
		return
	}
	b.log.WarnContext(ctx, "outbox: a statement on a bun.Conn was refused", "error", err,
		"reported", event.Err)
	event.Err = err // for the hooks that come after
}

// refusingConn is the connection of a statement that was refused.
type refusingConn struct {
	db  *sql.DB
	err *RefusedError
}

var _ bun.IConn = refusingConn{}

func (c refusingConn) reason(ctx context.Context) error {
	if ctx, refused := ctx.(refusal); refused {
		return ctx.err
	}
	return fmt.Errorf("this query has been refused before; build it anew: %w", c.err)
}

func (c refusingConn) QueryContext(ctx context.Context, _ string, _ ...any) (*sql.Rows, error) {
	return nil, c.reason(ctx)
}

func (c refusingConn) ExecContext(ctx context.Context, _ string, _ ...any) (sql.Result, error) {
	return nil, c.reason(ctx)
}

// QueryRowContext returns a row whose Scan returns the error. Only database/sql can make one.
func (c refusingConn) QueryRowContext(ctx context.Context, _ string, _ ...any) *sql.Row {
	return c.db.QueryRowContext(refusal{ctx, c.err}, "")
}

// refusal is a context that is over for the reason that a statement was refused. database/sql asks
// a context before it sends anything and returns its Err, so the caller gets the RefusedError
// itself from the call that was wrong.
type refusal struct {
	context.Context
	err *RefusedError
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (refusal) Deadline() (time.Time, bool) { return time.Time{}, false }
func (refusal) Done() <-chan struct{}       { return closed }
func (r refusal) Err() error                { return r.err }

type explicitKey struct{}

// Explicit returns a context under which writes to registered tables are the caller's to report:
// raw SQL, statements by WHERE, transactions that Box did not begin. Whoever uses it calls
// [Box.Saved] or [Box.Deleted] for every row touched, in the same transaction. Inside RunInTx, a
// transaction that wrote to a table under Explicit and reported no row of that model does not
// commit.
func Explicit(ctx context.Context) context.Context {
	return context.WithValue(ctx, explicitKey{}, true)
}

func isExplicit(ctx context.Context) bool {
	explicit, _ := ctx.Value(explicitKey{}).(bool)
	return explicit
}
