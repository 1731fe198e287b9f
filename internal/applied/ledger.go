package applied

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// AppliedRevision returns what a key was last brought to, without a lock; its Revision is
// NeverApplied where nothing was.
func (s *Tables) AppliedRevision(ctx context.Context, key Key) (Applied, error) {
	a := Applied{Key: key}
	var updated *int64
	err := s.DB().QueryRowContext(ctx, s.SQL(`
		SELECT revision, deleted, `+s.dialect.Micros("updated_at")+
		` FROM ? WHERE model = ? AND "key" = ?`), s.Table("replica_revisions"), key.Model, key.Key).
		Scan(&a.Revision, &a.Deleted, &updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		a.Revision = NeverApplied
		return a, nil
	case err != nil:
		return a, fmt.Errorf("read model %q key %q in the replica's ledger: %w", key.Model, key.Key,
			err)
	case updated != nil:
		a.Updated = time.UnixMicro(*updated).UTC()
	}
	return a, nil
}

// NewestApplied returns the newest time of the master in the ledger, per model. It reads the whole
// ledger.
func (s *Tables) NewestApplied(ctx context.Context) (map[string]time.Time, error) {
	var rows []struct {
		Model  string
		Micros *int64
	}
	err := s.DB().NewRaw("SELECT model, "+s.dialect.Micros("max(updated_at)")+
		" AS micros FROM ? GROUP BY model",
		s.Table("replica_revisions")).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("read the newest times of the replica's ledger: %w", err)
	}
	newest := make(map[string]time.Time, len(rows))
	for _, r := range rows {
		if r.Micros != nil {
			newest[r.Model] = time.UnixMicro(*r.Micros).UTC()
		}
	}
	return newest, nil
}

// CollectTombstones deletes up to n tombstones that were written longer than age ago, and says how
// many there were.
func (s *Tables) CollectTombstones(ctx context.Context, age time.Duration, n int) (int64, error) {
	ledger := s.Table("replica_revisions")
	// MariaDB deletes with a LIMIT but not from a table that a subquery reads; the others the other
	// way round.
	statement := `DELETE FROM ? WHERE deleted_at < ` + s.dialect.After(s.dialect.Now(), -age) +
		` AND deleted LIMIT ?`
	args := []any{ledger, n}
	if s.dialect.ledgerMode() != lockLedger {
		statement = `DELETE FROM ? WHERE (model, "key") IN (
			SELECT model, "key" FROM ? WHERE deleted_at < ` +
			s.dialect.After(s.dialect.Now(), -age) + ` AND deleted LIMIT ?) AND deleted AND deleted_at < ` +
			s.dialect.After(s.dialect.Now(), -age)
		args = []any{ledger, ledger, n}
	}
	var collected int64
	err := s.InBounds(ctx, s.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		result, err := tx.ExecContext(ctx, s.SQL(statement), args...)
		if err == nil {
			collected, err = result.RowsAffected()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("collect tombstones: %w", err)
	}
	return collected, nil
}

// ForgetLive deletes what the replica's ledger has of a model but for the tombstones.
func (s *Tables) ForgetLive(ctx context.Context, tx bun.IDB, model string) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE model = ? AND NOT deleted",
		s.Table("replica_revisions"), model)
	if err != nil {
		return fmt.Errorf("forget the keys of %s in the replica's ledger: %w", model, err)
	}
	return nil
}
