package master

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// Prepare makes Record keep the statement for one entity of these rows prepared on each connection,
// in transactions of bun. Otherwise reading and planning it is half of what it costs. It takes a
// connection of the pool, so no transaction may wait for it. It is safe for concurrent use.
func (w *Writer) Prepare(ctx context.Context, rows *PlainRows) error {
	if !w.dialect.recordsInFunction() || w.preparedFor(rows) != nil {
		return nil
	}
	stmt, err := w.DB().DB.PrepareContext(ctx,
		fmt.Sprintf("SELECT %s($1, $2, $3, $4, $5, d.data::json, $7, $8, $9)::text "+
			"FROM (SELECT $6::text AS data) AS d WHERE %s", w.Table("outbox_record"), rows.same("d.data")))
	if err != nil {
		return fmt.Errorf("prepare outbox_record: %w (behind a proxy that pools transactions "+
			"leave Config.Prepare off)", err)
	}
	// another transaction was first
	if _, first := w.prepared.LoadOrStore(rows.text(), stmt); first {
		// the server forgets it with the connection at the latest
		defer func() { _ = stmt.Close() }()
	}
	return nil
}

// ClosePrepared closes the statements that Prepare made.
func (w *Writer) ClosePrepared() error {
	var errs []error
	w.prepared.Range(func(text, stmt any) bool {
		w.prepared.Delete(text)
		errs = append(errs, stmt.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(errs...)
}

// preparedFor is the statement that Prepare made for rows, nil if there is none.
func (w *Writer) preparedFor(rows *PlainRows) *sql.Stmt {
	if stmt, found := w.prepared.Load(rows.text()); found {
		return stmt.(*sql.Stmt) //nolint:forcetypeassert // nothing else is stored
	}
	return nil
}

func recordPrepared(
	ctx context.Context, stmt *sql.Stmt, args []any, common outgoing.Message, e Entity,
	lanes outgoing.Numbering, to *handover.Appended,
) (bool, error) {
	var drawn string
	err := stmt.QueryRowContext(ctx, args...).Scan(&drawn)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err == nil && to.Wants(1) {
		addRecorded(to, common, e, lanes, drawn)
	}
	return err == nil, err
}
