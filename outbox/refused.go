package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// RefusedError is returned for a write to a registered table that cannot be captured, and for a statement that is not
// certain to leave registered tables alone. The statement has not run.
type RefusedError struct {
	// Verb is INSERT, UPDATE, DELETE, MERGE, TRUNCATE or COPY, or the first word of a statement that may write unseen.
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
	return fmt.Sprintf("outbox: %s on tracked table %s refused: %s; %s", e.Verb, e.Table, e.Reason, e.Fix)
}

const reportIt = "or run it under outbox.Explicit(ctx) and name the rows with Saved or Deleted in the same transaction"

func outsideTx(verb, table string) *RefusedError {
	return &RefusedError{verb, table, "it is outside Box.RunInTx, so no message can commit with it",
		"write inside Box.RunInTx with the tx it gives you, " + reportIt}
}

func unseen(verb, table, reason string) *RefusedError {
	return &RefusedError{verb, table, reason, "write rows by their primary key through bun (NewInsert().Model(&row), " +
		"NewUpdate or NewDelete().Model(&row).WherePK()), or a WHERE with outbox.BulkUpdate or BulkDelete, " + reportIt}
}

// lateWrite refuses what a goroutine, a Filter or a Serializer does when the messages are made.
func lateWrite(event *bun.QueryEvent) *RefusedError {
	return &RefusedError{Verb: firstWord(event), Reason: "the transaction is being committed, and its messages are made",
		Fix: "wait for goroutines before the function given to RunInTx returns, and write nothing in a Filter or Serializer"}
}

func (m *model) lateReport() *RefusedError {
	return &RefusedError{Verb: "report", Table: m.table.Name, Reason: "the transaction is being committed, and its messages are made",
		Fix: "report and touch rows before the function given to RunInTx returns"}
}

// refusal is a context that is over for the reason that a statement was refused. database/sql asks a context before it
// sends anything and returns its Err, so the caller gets the RefusedError itself from the call that was wrong. It is
// the only way for a bun query hook to stop a statement.
type refusal struct {
	context.Context
	err *RefusedError
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (refusal) Deadline() (time.Time, bool) { return time.Time{}, false }
func (refusal) Done() <-chan struct{}       { return closed }
func (r refusal) Err() error                { return r.err }

type explicitKey struct{}

// Explicit returns a context under which writes to registered tables are the caller's to report: raw SQL, statements
// by WHERE, transactions that Box did not begin. Whoever uses it calls [Box.Saved] or [Box.Deleted] for every row
// touched, in the same transaction. Inside RunInTx, a transaction that wrote to a table under Explicit and reported
// no row of that model does not commit.
func Explicit(ctx context.Context) context.Context {
	return context.WithValue(ctx, explicitKey{}, true)
}

func isExplicit(ctx context.Context) bool {
	explicit, _ := ctx.Value(explicitKey{}).(bool)
	return explicit
}
