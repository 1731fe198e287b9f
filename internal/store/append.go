package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

// Append writes messages into the outbox, in order. Their keys must be locked by Lock in the same transaction: that is
// what makes the identity grow with the revision.
func (s *Store) Append(ctx context.Context, tx bun.IDB, messages []Message) error {
	if len(messages) == 0 {
		return nil
	}
	lanes, err := s.laneCount(ctx, tx)
	if err != nil {
		return err
	}
	for chunk := range chunkBySize(messages, s.dialect.maxStatement()) {
		if err := s.appendChunk(ctx, tx, chunk, lanes); err != nil {
			return fmt.Errorf("append %d messages to the outbox: %w", len(messages), err)
		}
	}
	return nil
}

func (s *Store) appendChunk(ctx context.Context, tx bun.IDB, messages []Message, lanes int) error {
	const row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	args := []any{s.table("outbox_messages")}
	for _, m := range messages {
		var headers, expires any
		if len(m.Headers) > 0 {
			text, err := json.Marshal(m.Headers)
			if err != nil {
				return err
			}
			headers = string(text)
		}
		if !m.Expires.IsZero() {
			expires = s.dialect.time(m.Expires)
		}
		args = append(args, lane(m.Model, m.Key, lanes), m.Model, m.Key, m.Revision, m.After, m.Signal,
			orNull(m.Queue), string(m.PK), string(m.Data), orNull(string(m.Previous)), orNull(string(m.Meta)),
			headers, orNull(m.CorrelationID), s.dialect.time(m.Updated), expires)
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO ? (lane, model, key, revision, after, signal,
			queue, pk, data, previous, meta,
			headers, correlation_id, updated_at, expires_at)
		VALUES `+row+strings.Repeat(", "+row, len(messages)-1), args...)
	return err
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// chunkBySize splits messages so that the text of one statement stays under limit, with at least one per chunk.
func chunkBySize(messages []Message, limit int) func(yield func([]Message) bool) {
	return func(yield func([]Message) bool) {
		start, size := 0, 0
		for i, m := range messages {
			// Quoting may double an apostrophe; 300 bytes is what the other columns take.
			n := 300 + strings.Count(string(m.Data), "'") + len(m.Data) + len(m.Previous) + len(m.Meta) + len(m.Key)
			if i > start && size+n > limit {
				if !yield(messages[start:i:i]) {
					return
				}
				start, size = i, 0
			}
			size += n
		}
		yield(slices.Clip(messages[start:]))
	}
}

// lane is the hash partition of a key: the unit of order and of relay ownership. Changing the function would send a
// key's messages through two lanes at once, out of order.
func lane(model, key string, lanes int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(model)) // a hash never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(key))
	return int(h.Sum64() % uint64(lanes))
}

// laneCount reads how many lanes the migration made, once.
func (s *Store) laneCount(ctx context.Context, tx bun.IDB) (int, error) {
	if n := s.lanes.Load(); n > 0 {
		return int(n), nil
	}
	var n int64
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM ?", s.table("outbox_lanes")).Scan(&n); err != nil {
		return 0, fmt.Errorf("count lanes: %w", err)
	}
	if n == 0 {
		return 0, errors.New("outbox_lanes is empty: run relay migrate")
	}
	s.lanes.Store(n)
	return int(n), nil
}
