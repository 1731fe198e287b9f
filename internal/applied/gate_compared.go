package applied

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// settleCompared writes rows that were read without a lock. It is two statements where there are
// old and new keys: an upsert would be one, and costs half as much again for every old key.
func (s *Tables) settleCompared(ctx context.Context, tx bun.IDB, rows []Applied) error {
	var known, unknown []Applied
	for _, a := range rows {
		if a.version == 0 {
			unknown = append(unknown, a)
		} else {
			known = append(known, a)
		}
	}
	ledger := s.Table("replica_revisions")
	if len(known) > 0 {
		if err := settleArrays(ctx, tx, known, `
			UPDATE ? AS r SET revision = n.revision, deleted = n.deleted, updated_at = n.updated_at,
				deleted_at = CASE WHEN n.deleted THEN clock_timestamp() END,
				applied_at = clock_timestamp(), version = r.version + 1
			FROM ? WHERE r.model = n.model AND r.key = n.key AND r.version + 1 = n.version`,
			ledger); err != nil {
			return err
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return settleArrays(ctx, tx, unknown, `
		INSERT INTO ? (model, key, revision, deleted, updated_at, deleted_at, applied_at)
		SELECT model, key, revision, deleted, updated_at,
			CASE WHEN deleted THEN clock_timestamp() END, clock_timestamp()
		FROM ? ON CONFLICT DO NOTHING`, ledger)
}

// settleArrays has statement, which takes the ledger and the rows as a table n, write every row;
// another consumer may have been faster. The rows are arrays, which PostgreSQL reads in half the
// time that a list of values takes.
func settleArrays(
	ctx context.Context, tx bun.IDB, rows []Applied, statement string, ledger bun.Safe,
) error {
	var models, keys, revisions, deleted, updated, versions db.Array
	for _, a := range rows {
		models.Add(a.Model)
		keys.Add(a.Key.Key)
		revisions.Add(strconv.FormatInt(a.Revision, 10))
		deleted.Add(strconv.FormatBool(a.Deleted))
		versions.Add(strconv.FormatInt(a.version, 10))
		if a.Updated.IsZero() {
			updated.AddNull()
		} else {
			updated.Add(a.Updated.UTC().Format(time.RFC3339Nano))
		}
	}
	n := bun.SafeQuery(`unnest(
		?::text[], ?::text[], ?::bigint[], ?::boolean[], ?::timestamptz[], ?::bigint[])
		AS n(model, key, revision, deleted, updated_at, version)`,
		models.Literal(), keys.Literal(), revisions.Literal(), deleted.Literal(),
		updated.Literal(), versions.Literal())
	result, err := tx.ExecContext(ctx, statement, ledger, n)
	if err != nil {
		return err
	}
	return allOf(result, rows)
}

// allOf says whether a statement wrote every row, or another consumer was faster.
func allOf(result sql.Result, rows []Applied) error {
	n, err := result.RowsAffected()
	if err == nil && n < int64(len(rows)) {
		err = ErrOvertaken
	}
	return err
}
