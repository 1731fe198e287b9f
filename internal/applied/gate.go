package applied

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// NeverApplied is the revision of a key that the replica's ledger does not know yet. Masters count
// from 0.
const NeverApplied int64 = -1

// Applied is a row of the replica's ledger: what a key was last brought to.
type Applied struct {
	Key
	// Revision is NeverApplied where no message of the key was applied.
	Revision int64
	// Deleted marks the tombstone of a key: the row is gone, its revision is not (P7).
	Deleted bool
	// Updated is the master's clock (cqrs_updated) in UTC; zero where no master sent one.
	Updated time.Time

	// compared rows were read without a lock: SettleApplied writes them only over the version that
	// was read. 0 is that of a row that was not there, and 1 more than the version of one that was.
	compared bool
	version  int64
}

// ErrOvertaken says that another consumer settled a key after ReadApplied had read it. Do the
// transaction again, with LockApplied.
var ErrOvertaken = errors.New("another consumer settled the key first")

// ReadApplied returns the ledger rows of the keys, for SettleApplied in the same transaction. It is
// LockApplied with less to write: where the database can compare, it takes no lock, and
// SettleApplied reports ErrOvertaken when it came too late. Until SettleApplied has returned,
// another consumer may be deciding about the same key.
//
// keys must not repeat.
func (s *Tables) ReadApplied(ctx context.Context, tx bun.IDB, keys []Key) (map[Key]Applied, error) {
	mode := s.dialect.ledgerMode()
	if mode == lockLedger {
		return s.LockApplied(ctx, tx, keys)
	}
	read := make(map[Key]Applied, len(keys))
	for _, k := range keys {
		read[k] = Applied{Key: k, Revision: NeverApplied, compared: mode == compareLedger}
	}
	sorted := slices.SortedFunc(slices.Values(keys), db.CompareKeys)
	for chunk := range slices.Chunk(sorted, db.MaxKeys) {
		if err := s.readApplied(ctx, tx, chunk, read); err != nil {
			return nil, fmt.Errorf("read %d keys in the replica's ledger: %w", len(keys), err)
		}
	}
	return read, nil
}

// readApplied asks for the keys of each model by a list of its own, because a list of pairs is a
// filter to PostgreSQL, and a list of values a walk through the index.
func (s *Tables) readApplied(
	ctx context.Context, tx bun.IDB, sorted []Key, into map[Key]Applied,
) error {
	var selects []string
	var args []any
	for len(sorted) > 0 {
		model := sorted[0].Model
		var keys []string
		for len(sorted) > 0 && sorted[0].Model == model {
			keys, sorted = append(keys, sorted[0].Key), sorted[1:]
		}
		condition, keyArgs := db.Among(keys)
		selects = append(selects, `SELECT model, "key", revision, deleted, `+
			s.dialect.Micros("updated_at")+
			`, version FROM ? WHERE model = ? AND `+condition)
		args = append(append(args, s.Table("replica_revisions"), model), keyArgs...)
	}
	rows, err := tx.QueryContext(ctx, s.SQL(strings.Join(selects, " UNION ALL ")), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var a Applied
		if err := scanApplied(rows, &a, &a.version); err != nil {
			return err
		}
		a.compared = into[a.Key].compared
		a.version++
		into[a.Key] = a
	}
	return rows.Err()
}

func scanApplied(rows *sql.Rows, a *Applied, more ...any) error {
	var updated *int64
	err := rows.Scan(append([]any{&a.Model, &a.Key.Key, &a.Revision, &a.Deleted, &updated},
		more...)...)
	if err == nil && updated != nil {
		a.Updated = time.UnixMicro(*updated).UTC()
	}
	return err
}

// LockApplied returns the ledger rows of the keys, locked until the transaction ends, so that one
// consumer at a time decides about a key. It works for keys without a row too: the placeholder it
// inserts is what the second consumer waits for, and the update that changes nothing makes
// PostgreSQL lock and return the newest committed row, which a SELECT in the same snapshot would
// not see. A placeholder must be settled or rolled back.
//
// One statement, whatever the number of keys; keys must not repeat.
func (s *Tables) LockApplied(ctx context.Context, tx bun.IDB, keys []Key) (map[Key]Applied, error) {
	sorted := slices.SortedFunc(slices.Values(keys), db.CompareKeys)
	locked := make(map[Key]Applied, len(sorted))
	for chunk := range slices.Chunk(sorted, db.MaxKeys) {
		if err := s.lockApplied(ctx, tx, chunk, locked); err != nil {
			return nil, fmt.Errorf("lock %d keys in the replica's ledger: %w", len(keys), err)
		}
	}
	return locked, nil
}

func (s *Tables) lockApplied(
	ctx context.Context, tx bun.IDB, keys []Key, into map[Key]Applied,
) error {
	args := []any{s.Table("replica_revisions")}
	for _, k := range keys {
		args = append(args, k.Model, k.Key, NeverApplied)
	}
	ledger := string(s.Table("replica_revisions"))
	rows, err := tx.QueryContext(ctx, s.SQL(`
		INSERT INTO ? (model, "key", revision)
		VALUES (?, ?, ?)`+strings.Repeat(", (?, ?, ?)", len(keys)-1)+`
		`+s.dialect.OnConflict(`model, "key"`)+` revision = `+ledger+`.revision
		RETURNING model, "key", revision, deleted, `+s.dialect.Micros("updated_at")), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var a Applied
		if err := scanApplied(rows, &a); err != nil {
			return err
		}
		into[a.Key] = a
	}
	return rows.Err()
}

// SettleApplied writes ledger rows that LockApplied or ReadApplied returned in the same
// transaction. ErrOvertaken is for those of ReadApplied only; the transaction must be rolled back
// then. One statement, whatever the number of rows; keys must not repeat.
func (s *Tables) SettleApplied(ctx context.Context, tx bun.IDB, rows []Applied) error {
	sorted := slices.SortedFunc(slices.Values(rows), func(a, b Applied) int {
		return db.CompareKeys(a.Key, b.Key)
	})
	for chunk := range slices.Chunk(sorted, db.MaxKeys) {
		if err := s.settleApplied(ctx, tx, chunk); err != nil {
			return fmt.Errorf("settle %d keys in the replica's ledger: %w", len(rows), err)
		}
	}
	return nil
}

func (s *Tables) settleApplied(ctx context.Context, tx bun.IDB, rows []Applied) error {
	if rows[0].compared {
		return s.settleCompared(ctx, tx, rows)
	}
	values := make([]string, len(rows))
	args := []any{s.Table("replica_revisions")}
	for i, a := range rows {
		values[i] = "(?, ?, ?, ?, ?, " + s.deletedAt(a) + ", " + s.dialect.Now() + ")"
		args = append(args, a.Model, a.Key.Key, a.Revision, a.Deleted, s.TimeOrNull(a.Updated))
	}
	_, err := tx.ExecContext(ctx, s.SQL(`
		INSERT INTO ? (model, "key", revision, deleted, updated_at, deleted_at, applied_at)
		VALUES `+strings.Join(values, ", ")+
		s.Upsert(`model, "key"`, "revision", "deleted", "updated_at", "deleted_at", "applied_at")+
		", version = "+string(s.Table("replica_revisions"))+".version + 1"), args...)
	return err
}

func (s *Tables) deletedAt(a Applied) string {
	if a.Deleted {
		return s.dialect.Now()
	}
	return "NULL"
}

// ForgetLocked deletes the placeholders of keys that LockApplied found unknown, and that are not to
// be settled after all. One statement; keys that have a revision stay.
func (s *Tables) ForgetLocked(ctx context.Context, tx bun.IDB, keys []Key) error {
	for chunk := range slices.Chunk(slices.SortedFunc(slices.Values(keys), db.CompareKeys),
		db.MaxKeys) {
		_, err := tx.ExecContext(ctx, s.SQL(`DELETE FROM ? WHERE (model, "key") IN (?) AND revision = ?`),
			s.Table("replica_revisions"), db.Tuples(chunk), NeverApplied)
		if err != nil {
			return fmt.Errorf("forget %d keys in the replica's ledger: %w", len(keys), err)
		}
	}
	return nil
}

// BatchOptions are those of the transactions that apply messages. Under MariaDB's REPEATABLE READ
// they would lock gaps between keys, and refuse rows that changed since they began.
func (s *Tables) BatchOptions() *sql.TxOptions { return s.dialect.LanesOptions() }

// ledgerMode is how a dialect lets a batch of keys be decided about.
type ledgerMode int

const (
	// lockLedger locks the rows, with LockApplied, always.
	lockLedger ledgerMode = iota
	// compareLedger reads, decides, and writes what is still as it was read.
	compareLedger
	// ownLedger reads only: a write transaction has the database to itself.
	ownLedger
)
