package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Outcome is what became of claimed messages. At most one message per key is in Failed or Dead.
type Outcome struct {
	// Sent are confirmed by the broker.
	Sent []*Claimed
	// Failed keep their place; their keys wait.
	Failed []Failure
	// Dead are given up, so that the next message of the key may go.
	Dead []Failure
}

// Failure is a message that could not be sent.
type Failure struct {
	*Claimed
	// Error is why. What a database would refuse, or does not need, is cut from it.
	Error string
	// Wait is how long the key waits.
	Wait time.Duration
	// Spared says that it is not the message's fault, and costs it no attempt.
	Spared bool
}

// UnfinishedError says that what became of some messages could not be written down, because others
// hold their rows. Everything else is.
type UnfinishedError struct {
	*db.LockedError
	Left Outcome
}

func (e *UnfinishedError) Unwrap() error { return e.LockedError }

// NewUnfinishedError says what Finish could not write down.
func NewUnfinishedError(left Outcome) *UnfinishedError {
	err := fmt.Errorf("write down what became of messages of %d keys: %w", len(left.keys()),
		errLocked)
	return &UnfinishedError{&db.LockedError{Err: err}, left}
}

// attempts is how often the message has failed now.
func (f Failure) attempts() int {
	if f.Spared {
		return f.Attempts
	}
	return f.Attempts + 1
}

// Finish writes down what became of messages, in one transaction: sent ones leave the outbox, and
// their keys outbox_retries; failed ones make their key wait; dead ones move to
// outbox_dead_letters, and their key leaves outbox_retries. Rows of a lane that relay does not own
// any more under that epoch stay as they are: they are the next owner's. Doing it again does no
// harm, so it may be repeated after an error that does not say whether the transaction committed.
//
// Where others hold rows locked for long, it writes down all else (FinishFree), and returns an
// UnfinishedError that names them and what is left.
func (q *Queue) Finish(ctx context.Context, relay string, lanes []Lane, done Outcome) error {
	err := q.finish(ctx, relay, lanes, done)
	if waited := (*LockedError)(nil); errors.As(err, &waited) {
		err = q.FinishFree(ctx, relay, lanes, done)
		if left := (*UnfinishedError)(nil); errors.As(err, &left) {
			left.Holders = cmp.Or(waited.Holders, left.Holders)
		}
	}
	return err
}

func (q *Queue) finish(ctx context.Context, relay string, lanes []Lane, done Outcome) error {
	if len(done.Sent)+len(done.Failed)+len(done.Dead) == 0 {
		return nil
	}
	settled := keysOf(slices.DeleteFunc(slices.Clone(done.Sent), func(m *Claimed) bool {
		return !m.Failed
	}))
	// Nearly always, and saves round trips. Where transactions need options, the statement does
	// too: it would lock the gaps between the rows, in which others are about to insert.
	if len(settled)+len(done.Failed)+len(done.Dead) == 0 && q.dialect.LanesOptions() == nil {
		return q.Watched(ctx, q.Bounds(), func() error {
			return q.remove(ctx, q.DB(), relay, lanes, done.Sent)
		})
	}
	return q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		gone := slices.Clone(done.Sent)
		for _, f := range done.Dead {
			if err := q.bury(ctx, tx, relay, lanes, f); err != nil {
				return err
			}
			gone = append(gone, f.Claimed)
			settled = append(settled, Key{Model: f.Model, Key: f.Key})
		}
		if err := q.remove(ctx, tx, relay, lanes, gone); err != nil {
			return err
		}
		for chunk := range slices.Chunk(settled, db.MaxKeys) {
			_, err := tx.ExecContext(ctx, q.SQL(`DELETE FROM ? WHERE (model, "key") IN (?)`),
				q.Table("outbox_retries"), db.Tuples(chunk))
			if err != nil {
				return fmt.Errorf("forget retries: %w", err)
			}
		}
		for chunk := range slices.Chunk(done.Failed, db.MaxKeys) {
			if err := q.postpone(ctx, tx, chunk); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove deletes claimed messages, in one statement that finds each of them directly. What stayed
// would be sent again, behind newer messages of its key.
func (q *Queue) remove(
	ctx context.Context, tx bun.IDB, relay string, lanes []Lane, claimed []*Claimed,
) error {
	if len(claimed) == 0 || len(lanes) == 0 {
		return nil
	}
	limit := q.dialect.MaxStatement()
	size := func(m *Claimed) int { return max(limit/maxRemoved, 120+2*len(m.Key)+2*len(m.Model)) }
	for chunk := range db.ChunkBySize(claimed, size, limit) {
		gone, err := q.removeFound(ctx, tx, relay, lanes,
			q.dialect.claimedRows(string(q.Table("outbox_messages")), chunk))
		if err == nil && gone < int64(len(chunk)) {
			err = q.removeMoved(ctx, tx, relay, lanes, chunk)
		}
		if err == nil && gone < int64(len(chunk)) {
			err = q.requireServer(ctx, tx)
		}
		if err != nil {
			return fmt.Errorf("remove %d sent messages: %w", len(claimed), err)
		}
	}
	return nil
}

func (q *Queue) removeFound(
	ctx context.Context, tx bun.IDB, relay string, lanes []Lane, found schema.QueryWithArgs,
) (gone int64, err error) {
	done, err := tx.ExecContext(ctx, q.dialect.waitAtMost(q.Bounds())+"DELETE FROM ? WHERE ? AND ?",
		q.Table("outbox_messages"), found, q.fence(relay, lanes))
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// removeMoved removes what a compaction was changing while remove looked for it: messages that were
// handed over, which compaction has not been told of. Rows are held first, so that they do not move
// again. Mostly they are gone.
func (q *Queue) removeMoved(
	ctx context.Context, conn bun.IDB, relay string, lanes []Lane, claimed []*Claimed,
) error {
	hold, found := q.dialect.movedRows(string(q.Table("outbox_messages")), claimed)
	if hold == "" {
		return nil
	}
	return conn.RunInTx(ctx, q.dialect.LanesOptions(), func(ctx context.Context, tx bun.Tx) error {
		held, err := tx.ExecContext(ctx, q.Bounds().SetLocal()+hold+" WHERE l.?",
			q.fence(relay, lanes))
		if err != nil {
			return err
		}
		if n, err := held.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = q.removeFound(ctx, tx, relay, lanes, found)
		return err
	})
}

// maxRemoved bounds the messages of one statement.
const maxRemoved = 10_000

// idIn is claimedRows where the identity has an index of its own. key is that column, quoted, and
// values stands before a list of tuples.
func idIn(key, values string, claimed []*Claimed) schema.QueryWithArgs {
	ids, args := make([]int64, len(claimed)), make([]any, 0, 5*len(claimed))
	for i, m := range claimed {
		ids[i] = m.ID
		args = append(args, m.ID, m.Created.UnixMicro(), m.Revision, m.Model, m.Key)
	}
	return bun.SafeQuery("id IN ("+db.JoinInts(ids)+") AND (id, created_at, revision, model, "+key+
		") IN ("+values+
		"(?, ?, ?, ?, ?)"+strings.Repeat(", (?, ?, ?, ?, ?)", len(claimed)-1)+")", args...)
}

// selectIDs is identities where the identity has an index of its own.
func selectIDs(messages string, claimed []*Claimed, lock string) string {
	ids := make([]int64, len(claimed))
	for i, m := range claimed {
		ids[i] = m.ID
	}
	return "SELECT id FROM " + messages + " WHERE id IN (" + db.JoinInts(ids) + ")" + lock
}

// messageColumns are those that a dead letter shares with the message it was; contentColumns those
// of them that it keeps when it goes back.
const (
	messageColumns = "id, lane, created_at, " + contentColumns
	contentColumns = `model, "key", revision, after, "signal", queue, pk, data, previous, meta, ` +
		"headers, correlation_id, updated_at, expires_at, keep"
)

func (q *Queue) bury(ctx context.Context, tx bun.IDB, relay string, lanes []Lane, f Failure) error {
	if len(lanes) == 0 {
		return nil
	}
	// The row may be there: written, but not removed, by an owner that lost the lane in between.
	_, err := tx.ExecContext(ctx, q.SQL(`
		INSERT INTO ? (`+messageColumns+`, attempts, last_error)
		SELECT `+messageColumns+`, ?, ? FROM ?
		WHERE lane = ? AND id = ? AND `+q.dialect.Micros("created_at")+` = ?
			AND revision = ? AND model = ? AND "key" = ? AND ?`+
		q.Upsert("id", "attempts", "last_error")),
		q.Table("outbox_dead_letters"), f.attempts(), clean(f.Error),
		q.Table("outbox_messages"), f.Lane, f.ID, f.Created.UnixMicro(), f.Revision, f.Model, f.Key,
		q.fence(relay, lanes))
	if err != nil {
		return fmt.Errorf("write dead letter %d: %w", f.ID, err)
	}
	return nil
}

func keysOf(messages []*Claimed) []Key {
	keys := make([]Key, len(messages))
	for i, m := range messages {
		keys[i] = Key{Model: m.Model, Key: m.Key}
	}
	return keys
}

// clean makes any error text one that every database stores: an error must not become the reason
// that writing it down fails, again and again.
func clean(text string) string {
	const limit = 2000
	text = strings.ReplaceAll(text, "\x00", "")
	return strings.ToValidUTF8(text[:min(len(text), limit)], "")
}
