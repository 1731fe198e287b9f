package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
)

// Capture is [Box.Saved] and [Box.Deleted] for code that writes through database/sql beside bun: it
// appends, in tx, a message for each row with the state it has at that moment. Each row is a
// pointer to a registered model with its primary key set, or a slice of them; whether a row was
// saved or deleted is read from the database. Call it last, and once per transaction, because each
// call draws a revision. The transaction must be one of the box's database.
//
// What it cannot do: it does not see what tx wrote, so a row that is not given is not sent; and
// after a rollback to a savepoint that contains the call there is no message. Native pgx
// transactions (pgx.Tx) are not database/sql. To use pgx itself, COPY for instance, begin on a
// *sql.Conn and reach pgx through the same connection:
//
//	conn, err := db.Conn(ctx)
//	tx, err := conn.BeginTx(ctx, nil)
//	err = conn.Raw(func(c any) error {
//		_, err := c.(interface{ Conn() *pgx.Conn }).Conn().CopyFrom(…)
//		return err
//	})
//	err = box.Capture(ctx, tx, rows)
//	err = tx.Commit()
func (b *Box) Capture(ctx context.Context, tx *sql.Tx, rows ...any) error {
	if tx == nil {
		return errors.New("outbox: the transaction is nil: pass the *sql.Tx you write with")
	}
	if err := b.registrations(); err != nil {
		return err
	}
	s := newSession(b)
	for _, row := range rows {
		if err := s.reported(row, touched); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
	}
	return s.flush(ctx, sqlTx{b.db, tx})
}

// sqlTx lets a *sql.Tx run what bun writes: the flush, and what a Serializer asks.
type sqlTx struct {
	*bun.DB // its dialect and models; nothing may run on it

	tx *sql.Tx
}

var _ bun.IDB = sqlTx{}

func (t sqlTx) format(query string, args []any) string {
	return t.DB.QueryGen().FormatQuery(query, args...)
}

// ExecContext implements bun.IDB.
func (t sqlTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(ctx, t.format(query, args))
}

// QueryContext implements bun.IDB.
func (t sqlTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, t.format(query, args))
}

// QueryRowContext implements bun.IDB.
func (t sqlTx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(ctx, t.format(query, args))
}

// NewValues and those below implement bun.IDB.
func (t sqlTx) NewValues(model any) *bun.ValuesQuery { return t.DB.NewValues(model).Conn(t.tx) }
func (t sqlTx) NewSelect() *bun.SelectQuery          { return t.DB.NewSelect().Conn(t.tx) }
func (t sqlTx) NewInsert() *bun.InsertQuery          { return t.DB.NewInsert().Conn(t.tx) }
func (t sqlTx) NewUpdate() *bun.UpdateQuery          { return t.DB.NewUpdate().Conn(t.tx) }
func (t sqlTx) NewDelete() *bun.DeleteQuery          { return t.DB.NewDelete().Conn(t.tx) }
func (t sqlTx) NewMerge() *bun.MergeQuery            { return t.DB.NewMerge().Conn(t.tx) }
func (t sqlTx) NewRaw(query string, args ...any) *bun.RawQuery {
	return t.DB.NewRaw(query, args...).Conn(t.tx)
}
func (t sqlTx) NewCreateTable() *bun.CreateTableQuery { return t.DB.NewCreateTable().Conn(t.tx) }
func (t sqlTx) NewDropTable() *bun.DropTableQuery     { return t.DB.NewDropTable().Conn(t.tx) }
func (t sqlTx) NewCreateIndex() *bun.CreateIndexQuery { return t.DB.NewCreateIndex().Conn(t.tx) }
func (t sqlTx) NewDropIndex() *bun.DropIndexQuery     { return t.DB.NewDropIndex().Conn(t.tx) }
func (t sqlTx) NewTruncateTable() *bun.TruncateTableQuery {
	return t.DB.NewTruncateTable().Conn(t.tx)
}
func (t sqlTx) NewAddColumn() *bun.AddColumnQuery   { return t.DB.NewAddColumn().Conn(t.tx) }
func (t sqlTx) NewDropColumn() *bun.DropColumnQuery { return t.DB.NewDropColumn().Conn(t.tx) }

var errNotBuns = errors.New("outbox: bun can begin no transaction inside a *sql.Tx: write with " +
	"the bun.IDB that is given")

// BeginTx implements bun.IDB: bun cannot make a savepoint here, and beginning on the database would
// leave tx.
func (t sqlTx) BeginTx(context.Context, *sql.TxOptions) (bun.Tx, error) {
	return bun.Tx{}, errNotBuns
}

// RunInTx is refused as BeginTx is.
func (t sqlTx) RunInTx(context.Context, *sql.TxOptions, func(context.Context, bun.Tx) error) error {
	return errNotBuns
}
