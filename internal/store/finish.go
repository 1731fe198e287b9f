package store

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Outcome is what became of claimed messages. At most one message per key is in Failed or Dead.
type Outcome struct {
	// Sent are confirmed by the broker.
	Sent []*Claimed
	// Replaced are older than a message of their key in Sent that replaces them.
	Replaced []*Claimed
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

// attempts is how often the message has failed now.
func (f Failure) attempts() int {
	if f.Spared {
		return f.Attempts
	}
	return f.Attempts + 1
}

// Finish writes down what became of messages, in one transaction: sent ones leave the outbox, and their keys
// outbox_retries; failed ones make their key wait; dead ones move to outbox_dead_letters, and their key leaves
// outbox_retries. Rows of a lane that relay does not own any more under that epoch stay as they are: they are the
// next owner's. Doing it again does no harm, so it may be repeated after an error that does not say whether the
// transaction committed.
func (s *Store) Finish(ctx context.Context, relay string, lanes []Lane, done Outcome) error {
	if len(done.Sent)+len(done.Failed)+len(done.Dead) == 0 {
		return nil
	}
	settled := keysOf(slices.DeleteFunc(slices.Concat(done.Sent, done.Replaced), func(m *Claimed) bool { return !m.Failed }))
	// Nearly always, and saves round trips. Where transactions need options, the statement does too: it would lock the gaps
	// between the rows, in which others are about to insert.
	if len(settled)+len(done.Failed)+len(done.Dead) == 0 && s.dialect.lanesOptions() == nil {
		return s.remove(ctx, s.db, relay, lanes, slices.Concat(done.Sent, done.Replaced))
	}
	return s.db.RunInTx(ctx, s.dialect.lanesOptions(), func(ctx context.Context, tx bun.Tx) error {
		gone := slices.Concat(done.Sent, done.Replaced)
		for _, f := range done.Dead {
			if err := s.bury(ctx, tx, relay, lanes, f); err != nil {
				return err
			}
			gone = append(gone, f.Claimed)
			settled = append(settled, Key{f.Model, f.Key})
		}
		if err := s.remove(ctx, tx, relay, lanes, gone); err != nil {
			return err
		}
		for chunk := range slices.Chunk(settled, maxKeys) {
			_, err := tx.ExecContext(ctx, s.sql(`DELETE FROM ? WHERE (model, "key") IN (?)`), s.table("outbox_retries"), tuples(chunk))
			if err != nil {
				return fmt.Errorf("forget retries: %w", err)
			}
		}
		for chunk := range slices.Chunk(done.Failed, maxKeys) {
			if err := s.postpone(ctx, tx, chunk); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove deletes claimed messages, in one statement that finds each of them directly. What stayed would be sent again, behind
// newer messages of its key.
func (s *Store) remove(ctx context.Context, db bun.IDB, relay string, lanes []Lane, claimed []*Claimed) error {
	if len(claimed) == 0 || len(lanes) == 0 {
		return nil
	}
	for chunk := range slices.Chunk(claimed, maxRemoved) {
		gone, err := s.removeFound(ctx, db, relay, lanes, s.dialect.claimedRows(string(s.table("outbox_messages")), chunk))
		if err == nil && gone < int64(len(chunk)) {
			err = s.removeMoved(ctx, db, relay, lanes, chunk)
		}
		if err != nil {
			return fmt.Errorf("remove %d sent messages: %w", len(claimed), err)
		}
	}
	return nil
}

func (s *Store) removeFound(ctx context.Context, db bun.IDB, relay string, lanes []Lane, found string) (gone int64, err error) {
	done, err := db.ExecContext(ctx, "DELETE FROM ? WHERE "+found+" AND ?", s.table("outbox_messages"), s.fence(relay, lanes))
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// removeMoved removes what a compaction was changing while remove looked for it: messages that were handed over, which
// compaction has not been told of. Rows are held first, so that they do not move again. Mostly they are gone.
func (s *Store) removeMoved(ctx context.Context, db bun.IDB, relay string, lanes []Lane, claimed []*Claimed) error {
	hold, found := s.dialect.movedRows(string(s.table("outbox_messages")), claimed)
	if hold == "" {
		return nil
	}
	return db.RunInTx(ctx, s.dialect.lanesOptions(), func(ctx context.Context, tx bun.Tx) error {
		held, err := tx.ExecContext(ctx, hold+" WHERE l.?", s.fence(relay, lanes))
		if err != nil {
			return err
		}
		if n, err := held.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = s.removeFound(ctx, tx, relay, lanes, found)
		return err
	})
}

// maxRemoved bounds the text of one statement.
const maxRemoved = 10_000

// idIn is claimedRows where the identity has an index of its own.
func idIn(claimed []*Claimed) string {
	ids := make([]int64, len(claimed))
	for i, m := range claimed {
		ids[i] = m.ID
	}
	return "id IN (" + joinInts(ids) + ")"
}

func joinInts(numbers []int64) string {
	var b []byte
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

// postpone needs no fence: at worst a key waits once more for its next owner, who asks which keys wait before and after
// it reads.
func (s *Store) postpone(ctx context.Context, tx bun.Tx, failed []Failure) error {
	rows := make([]string, len(failed))
	args := []any{s.table("outbox_retries")}
	for i, f := range failed {
		rows[i] = "(?, ?, ?, " + s.dialect.after(s.dialect.now(), f.Wait) + ", ?, ?)"
		id := f.ID
		if !f.Replaceable() {
			id = math.MaxInt64 // nothing is newer
		}
		args = append(args, f.Model, f.Key, f.attempts(), clean(f.Error), id)
	}
	_, err := tx.ExecContext(ctx, s.sql(`
		INSERT INTO ? (model, "key", attempts, next_attempt_at, last_error, message_id) VALUES `+strings.Join(rows, ", ")+
		s.upsert(`model, "key"`, "attempts", "next_attempt_at", "last_error", "message_id")), args...)
	if err != nil {
		return fmt.Errorf("postpone %d keys: %w", len(failed), err)
	}
	return nil
}

// messageColumns are those that a dead letter shares with the message it was; contentColumns those of them that it keeps
// when it goes back.
const (
	messageColumns = "id, lane, created_at, " + contentColumns
	contentColumns = `model, "key", revision, after, "signal", queue, pk, data, previous, meta, headers, ` +
		"correlation_id, updated_at, expires_at, keep"
)

func (s *Store) bury(ctx context.Context, tx bun.Tx, relay string, lanes []Lane, f Failure) error {
	if len(lanes) == 0 {
		return nil
	}
	// The row may be there: written, but not removed, by an owner that lost the lane in between.
	_, err := tx.ExecContext(ctx, s.sql(`
		INSERT INTO ? (`+messageColumns+`, attempts, last_error)
		SELECT `+messageColumns+`, ?, ? FROM ? WHERE lane = ? AND id = ? AND ?`+
		s.upsert("id", "attempts", "last_error")),
		s.table("outbox_dead_letters"), f.attempts(), clean(f.Error),
		s.table("outbox_messages"), f.Lane, f.ID, s.fence(relay, lanes))
	if err != nil {
		return fmt.Errorf("write dead letter %d: %w", f.ID, err)
	}
	return nil
}

// Hasten ends the wait of keys: a newer message replaces the one that failed.
func (s *Store) Hasten(ctx context.Context, keys []Key) error {
	for chunk := range slices.Chunk(keys, maxKeys) {
		_, err := s.db.ExecContext(ctx, s.sql("UPDATE ? SET next_attempt_at = "+s.dialect.now()+` WHERE (model, "key") IN (?)`),
			s.table("outbox_retries"), tuples(chunk))
		if err != nil {
			return fmt.Errorf("end the wait of %d keys: %w", len(keys), err)
		}
	}
	return nil
}

func keysOf(messages []*Claimed) []Key {
	keys := make([]Key, len(messages))
	for i, m := range messages {
		keys[i] = Key{m.Model, m.Key}
	}
	return keys
}

// clean makes any error text one that every database stores: an error must not become the reason that writing it down
// fails, again and again.
func clean(text string) string {
	const limit = 2000
	text = strings.ReplaceAll(text, "\x00", "")
	return strings.ToValidUTF8(text[:min(len(text), limit)], "")
}
