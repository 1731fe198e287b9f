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

	"github.com/cqrsync/cqrsync/internal/store"
)

// tableRoom is the room in the service's database.
type tableRoom struct {
	db    *bun.DB
	store *store.Store
}

func (r tableRoom) transact(
	ctx context.Context, l store.BatchLimits, use func(context.Context, transaction) error,
) error {
	l.Options = r.store.BatchOptions()
	return r.store.InBatch(ctx, l, func(ctx context.Context, tx bun.Tx) error {
		return use(ctx, tableTransaction{tx, r.store})
	})
}

func (r tableRoom) briefTries() int  { return r.store.BriefTries() }
func (r tableRoom) hidesWhose() bool { return r.db.Dialect().Name() == dialect.SQLite }
func (r tableRoom) mostText() int    { return r.store.MostText() }

func (r tableRoom) applied(ctx context.Context, key store.Key) (store.Applied, error) {
	return r.store.AppliedRevision(ctx, key)
}

func (r tableRoom) takePassed(ctx context.Context, n int) ([]store.Passed, error) {
	return r.store.TakePassed(ctx, n)
}

func (r tableRoom) collectTombstones(ctx context.Context, age time.Duration, n int) (int64, error) {
	return r.store.CollectTombstones(ctx, age, n)
}

func (r tableRoom) nextWaiting(ctx context.Context) (in time.Duration, some bool, err error) {
	return r.store.NextWaiting(ctx)
}

func (r tableRoom) claimWaiting(ctx context.Context, n int, lease time.Duration) ([]store.Waiting, error) {
	return r.store.ClaimWaiting(ctx, n, lease)
}

func (r tableRoom) releaseWaiting(ctx context.Context, parents []store.Key) (int64, error) {
	return r.store.ReleaseWaiting(ctx, parents)
}

func (r tableRoom) countWaiting(ctx context.Context) (map[string]int64, error) {
	return r.store.CountWaiting(ctx)
}

func (r tableRoom) deadLetterAfter(
	ctx context.Context, model, key string, revision int64,
) (dead bool, after *int64, err error) {
	return r.store.DeadLetterAfter(ctx, r.db, model, key, revision)
}

// tableTransaction is a transaction of the service's database.
type tableTransaction struct {
	tx    bun.Tx
	store *store.Store
}

func (t tableTransaction) service() bun.Tx { return t.tx }

func (t tableTransaction) savepoint(ctx context.Context, use func(transaction) error) error {
	return inSavepoint(ctx, t.tx, func(tx bun.Tx) error { return use(tableTransaction{tx, t.store}) })
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

func (t tableTransaction) readLedger(ctx context.Context, keys []store.Key) (map[store.Key]store.Applied, error) {
	return t.store.ReadApplied(ctx, t.tx, keys)
}

func (t tableTransaction) lockLedger(ctx context.Context, keys []store.Key) (map[store.Key]store.Applied, error) {
	return t.store.LockApplied(ctx, t.tx, keys)
}

func (t tableTransaction) lockFree(ctx context.Context, keys []store.Key) (map[store.Key]store.Applied, error) {
	locked, _, err := t.store.LockFree(ctx, t.tx, keys)
	return locked, err
}

func (t tableTransaction) settleRows(ctx context.Context, rows []store.Applied) error {
	return t.store.SettleApplied(ctx, t.tx, rows)
}

func (t tableTransaction) forgetLocked(ctx context.Context, keys []store.Key) error {
	return t.store.ForgetLocked(ctx, t.tx, keys)
}

func (t tableTransaction) addWaiting(ctx context.Context, rows []store.Waiting) error {
	return t.store.AddWaiting(ctx, t.tx, rows)
}

func (t tableTransaction) waitingFor(ctx context.Context, keys []store.Key) (map[store.Key]store.Applied, error) {
	return t.store.WaitingFor(ctx, t.tx, keys)
}

func (t tableTransaction) forgetWaiting(ctx context.Context, keys []store.Key) error {
	return t.store.ForgetWaiting(ctx, t.tx, keys)
}

func (t tableTransaction) removeWaiting(ctx context.Context, rows []store.Applied) error {
	return t.store.RemoveWaiting(ctx, t.tx, rows)
}

func (t tableTransaction) releaseNext(ctx context.Context, reached map[store.Key]int64) (int64, error) {
	return t.store.ReleaseNext(ctx, t.tx, reached)
}

func (t tableTransaction) waitingOf(ctx context.Context, keys []store.Key) ([]store.Waiting, error) {
	return t.store.WaitingOf(ctx, t.tx, keys)
}

func (t tableTransaction) waitingIn(ctx context.Context, model string, n int) ([]store.Waiting, error) {
	return t.store.WaitingIn(ctx, t.tx, model, n)
}

func (t tableTransaction) addDeadLetter(ctx context.Context, letter store.ReplicaDeadLetter) error {
	return t.store.AddReplicaDeadLetter(ctx, t.tx, letter)
}

func (t tableTransaction) deadLetterAfter(
	ctx context.Context, model, key string, revision int64,
) (dead bool, after *int64, err error) {
	return t.store.DeadLetterAfter(ctx, t.tx, model, key, revision)
}

func (t tableTransaction) addPassed(ctx context.Context, passed []store.Passed, in time.Duration) error {
	return t.store.AddPassed(ctx, t.tx, passed, in)
}

func (t tableTransaction) closePassed(ctx context.Context, late []store.Late) error {
	return t.store.ClosePassed(ctx, t.tx, late)
}

// inSavepoint undoes what use did when it fails. An *outageError means that the transaction is of no use any more.
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

// release ends a savepoint that was rolled back, which bun does not: the next one would lie within it, and the one after
// that deeper still, each with its entry in PostgreSQL's lock table.
func release(ctx context.Context, tx, savepoint bun.Tx) error {
	name := reflect.ValueOf(savepoint).FieldByName("name") // bun tells it nobody
	if name.Kind() != reflect.String || name.String() == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, "RELEASE SAVEPOINT "+name.String())
	return err
}
