package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// ErrUnsent is why deleted keys are not forgotten: messages are unsent that are as old as they are.
var ErrUnsent = errors.New("messages that old are unsent: let the relay send them first")

// forgetAtOnce is how many keys are forgotten in one transaction.
const forgetAtOnce = 1000

// ForgetDeleted forgets the keys of a model that were deleted longer ago than age, by the
// database's clock, and returns how many. Such a key begins again at revision 0 if it is created
// again, and whoever still remembers a revision of it ignores that: so age must be longer than
// replicas remember deleted keys, and than a message can be on its way.
//
// Keys that are created again meanwhile are kept. An error may come after some were forgotten.
func (l *Revisions) ForgetDeleted(
	ctx context.Context, model string, age time.Duration,
) (n int64, err error) {
	before := l.dialect.After(l.dialect.Now(), -age)
	for last, more := "", true; more && err == nil; {
		var some int64
		some, last, more, err = l.forgetSome(ctx, model, last, before)
		n += some
	}
	if err != nil {
		return n, fmt.Errorf("forget deleted keys of %s: %w", model, err)
	}
	return n, nil
}

// forgetSome forgets keys behind one, and says which it looked at last.
func (l *Revisions) forgetSome(
	ctx context.Context, model, after, before string,
) (n int64, last string, more bool, err error) {
	ledger := l.table
	old := "deleted AND updated_at < " + before
	err = l.InBounds(ctx, l.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		if err := l.requireSent(ctx, tx, before); err != nil {
			return err
		}
		var keys []string
		err := tx.NewRaw(l.SQL(`SELECT "key" FROM ? WHERE model = ? AND "key" > ? AND `+old+`
			ORDER BY "key" LIMIT ?`),
			ledger, model, after, forgetAtOnce).Scan(ctx, &keys)
		if err != nil || len(keys) == 0 {
			return err
		}
		last, more = keys[len(keys)-1], len(keys) == forgetAtOnce
		done, err := tx.ExecContext(ctx, l.SQL(`DELETE FROM ? WHERE model = ? AND "key" IN (?) AND `+old),
			ledger, model, bun.List(keys))
		if err == nil {
			n, err = done.RowsAffected()
		}
		return err
	})
	return n, last, more, err
}

// requireSent returns ErrUnsent where a lane begins with a message from before that time: the
// delete of a key may still be on its way, and what begins again at revision 0 would follow it.
func (l *Revisions) requireSent(ctx context.Context, tx bun.IDB, before string) error {
	var unsent int
	err := tx.QueryRowContext(ctx, `
		SELECT count(*) FROM (
			SELECT (
				SELECT m.created_at FROM ? AS m WHERE m.lane = l.lane ORDER BY m.id LIMIT 1
			) AS created FROM ? AS l
		) AS h WHERE h.created < `+before,
		l.Table("outbox_messages"), l.Table("outbox_lanes")).Scan(&unsent)
	if err == nil && unsent > 0 {
		err = ErrUnsent
	}
	return err
}
