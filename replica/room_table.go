package replica

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// tableRoom is the room in the service's database.
type tableRoom struct {
	db     *bun.DB
	tables *ownTables
}

func (r tableRoom) transact(
	ctx context.Context, l db.BatchLimits, use func(context.Context, transaction) error,
) error {
	l.Options = r.tables.BatchOptions()
	return r.tables.InBatch(ctx, l, func(ctx context.Context, tx bun.Tx) error {
		return use(ctx, tableTransaction{tx, r.tables})
	})
}

func (r tableRoom) briefTries() int  { return r.tables.BriefTries() }
func (r tableRoom) hidesWhose() bool { return r.db.Dialect().Name() == dialect.SQLite }
func (r tableRoom) mostText() int    { return r.tables.MostText() }

func (r tableRoom) applied(ctx context.Context, key db.Key) (applied.Applied, error) {
	return r.tables.AppliedRevision(ctx, key)
}

func (r tableRoom) takePassed(ctx context.Context, n int) ([]applied.Passed, error) {
	return r.tables.TakePassed(ctx, n)
}

func (r tableRoom) collectTombstones(ctx context.Context, age time.Duration, n int) (int64, error) {
	return r.tables.CollectTombstones(ctx, age, n)
}

func (r tableRoom) nextWaiting(ctx context.Context) (in time.Duration, some bool, err error) {
	return r.tables.NextWaiting(ctx)
}

func (r tableRoom) claimWaiting(
	ctx context.Context, n int, lease time.Duration,
) ([]applied.Waiting, error) {
	return r.tables.ClaimWaiting(ctx, n, lease)
}

func (r tableRoom) releaseWaiting(ctx context.Context, parents []db.Key) (int64, error) {
	return r.tables.ReleaseWaiting(ctx, parents)
}

func (r tableRoom) countWaiting(ctx context.Context) (map[string]int64, error) {
	return r.tables.CountWaiting(ctx)
}

func (r tableRoom) deadLetterAfter(
	ctx context.Context, model, key string, revision int64,
) (dead bool, after *int64, err error) {
	return r.tables.DeadLetterAfter(ctx, r.db, model, key, revision)
}

// tableTransaction is a transaction of the service's database.
type tableTransaction struct {
	tx     bun.Tx
	tables *ownTables
}

func (t tableTransaction) service() bun.Tx { return t.tx }

func (t tableTransaction) savepoint(ctx context.Context, use func(transaction) error) error {
	return inSavepoint(ctx, t.tx, func(tx bun.Tx) error {
		return use(tableTransaction{tx, t.tables})
	})
}

func (t tableTransaction) blameAtOnce(ctx context.Context) error {
	if t.tx.Dialect().Name() != dialect.PG {
		return nil
	}
	_, err := t.tx.ExecContext(ctx, "SET CONSTRAINTS ALL IMMEDIATE")
	return err
}

func (t tableTransaction) violations(ctx context.Context) (n int, err error) {
	err = t.tx.NewRaw("SELECT count(*) FROM pragma_foreign_key_check").Scan(ctx, &n)
	return n, err
}

func (t tableTransaction) readLedger(
	ctx context.Context, keys []db.Key,
) (map[db.Key]applied.Applied, error) {
	return t.tables.ReadApplied(ctx, t.tx, keys)
}

func (t tableTransaction) lockLedger(
	ctx context.Context, keys []db.Key,
) (map[db.Key]applied.Applied, error) {
	return t.tables.LockApplied(ctx, t.tx, keys)
}

func (t tableTransaction) lockFree(
	ctx context.Context, keys []db.Key,
) (map[db.Key]applied.Applied, error) {
	locked, _, err := t.tables.LockFree(ctx, t.tx, keys)
	return locked, err
}

func (t tableTransaction) settleRows(ctx context.Context, rows []applied.Applied) error {
	return t.tables.SettleApplied(ctx, t.tx, rows)
}

func (t tableTransaction) forgetLocked(ctx context.Context, keys []db.Key) error {
	return t.tables.ForgetLocked(ctx, t.tx, keys)
}

func (t tableTransaction) addWaiting(ctx context.Context, rows []applied.Waiting) error {
	return t.tables.AddWaiting(ctx, t.tx, rows)
}

func (t tableTransaction) waitingFor(
	ctx context.Context, keys []db.Key,
) (map[db.Key]applied.Applied, error) {
	return t.tables.WaitingFor(ctx, t.tx, keys)
}

func (t tableTransaction) forgetWaiting(ctx context.Context, keys []db.Key) error {
	return t.tables.ForgetWaiting(ctx, t.tx, keys)
}

func (t tableTransaction) removeWaiting(ctx context.Context, rows []applied.Applied) error {
	return t.tables.RemoveWaiting(ctx, t.tx, rows)
}

func (t tableTransaction) releaseNext(
	ctx context.Context, reached map[db.Key]int64,
) (int64, error) {
	return t.tables.ReleaseNext(ctx, t.tx, reached)
}

func (t tableTransaction) waitingOf(ctx context.Context, keys []db.Key) ([]applied.Waiting, error) {
	return t.tables.WaitingOf(ctx, t.tx, keys)
}

func (t tableTransaction) waitingIn(
	ctx context.Context, model string, n int,
) ([]applied.Waiting, error) {
	return t.tables.WaitingIn(ctx, t.tx, model, n)
}

func (t tableTransaction) addDeadLetter(
	ctx context.Context, letter applied.DeadLetter,
) error {
	return t.tables.AddDeadLetter(ctx, t.tx, letter)
}

func (t tableTransaction) deadLetterAfter(
	ctx context.Context, model, key string, revision int64,
) (dead bool, after *int64, err error) {
	return t.tables.DeadLetterAfter(ctx, t.tx, model, key, revision)
}

func (t tableTransaction) addPassed(
	ctx context.Context, passed []applied.Passed, in time.Duration,
) error {
	return t.tables.AddPassed(ctx, t.tx, passed, in)
}

func (t tableTransaction) closePassed(ctx context.Context, late []applied.Late) error {
	return t.tables.ClosePassed(ctx, t.tx, late)
}

// inSavepoint undoes what use did when it fails. An *outageError means that the transaction is of
// no use any more.
func inSavepoint(ctx context.Context, tx bun.Tx, use func(bun.Tx) error) error {
	savepoint, err := tx.BeginTx(ctx, nil)
	if err != nil {
		return &outageError{fmt.Errorf("savepoint: %w", err)}
	}
	err = use(savepoint)
	if err == nil {
		if err = savepoint.Commit(); err == nil {
			return nil
		}
	}
	rollbackErr := savepoint.Rollback()
	if rollbackErr == nil {
		rollbackErr = release(ctx, tx, savepoint)
	}
	if rollbackErr != nil && !errors.Is(rollbackErr, sql.ErrTxDone) {
		return &outageError{fmt.Errorf("%w; roll back to the savepoint: %w", err, rollbackErr)}
	} else if rollbackErr != nil {
		return &outageError{err}
	}
	return err
}

// release ends a savepoint that was rolled back, which bun does not: the next one would lie within
// it, and the one after that deeper still, each with its entry in PostgreSQL's lock table.
func release(ctx context.Context, tx, savepoint bun.Tx) error {
	name := reflect.ValueOf(savepoint).FieldByName("name") // bun tells it nobody
	if name.Kind() != reflect.String || name.String() == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, "RELEASE SAVEPOINT "+name.String())
	return err
}
