package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

// Entity is one entity whose state is known.
type Entity struct {
	Key  string
	PK   json.RawMessage
	Data json.RawMessage
}

// Record is Lock, Settle and Append in one for saved entities of one model whose state is known before the lock: the
// transaction wrote the whole row and holds its lock, and nothing else belongs to the entity. common holds what their
// messages share: model, meta, headers and correlation id.
//
// On PostgreSQL it is one statement instead of three and a read. In one statement the ledger's lock comes too late for
// reading (the snapshot is older), which is why only known states may take this way.
func (s *Store) Record(ctx context.Context, tx bun.IDB, common Message, entities []Entity) error {
	slices.SortFunc(entities, func(a, b Entity) int { return strings.Compare(a.Key, b.Key) }) // the one lock order
	lanes, err := s.laneCount(ctx, tx)
	if err != nil {
		return err
	}
	record := s.recordInSteps
	if s.dialect.writesInWith() {
		record = func(ctx context.Context, tx bun.IDB, common Message, entities []Entity) error {
			return s.recordAtOnce(ctx, tx, common, entities, lanes)
		}
	}
	size := func(e Entity) int { return 60 + 2*len(e.Key) + sizeQuoted(e.Data) }
	for chunk := range chunkBySize(entities, size, s.dialect.maxStatement()) {
		if err := record(ctx, tx, common, chunk); err != nil {
			return fmt.Errorf("record %d entities in the outbox: %w", len(entities), err)
		}
	}
	return nil
}

// recordAtOnce raises the ledger in a WITH and appends what that returns. One entity, by far the most frequent case, goes
// without a WITH for its values and without the join: that plans a sixth faster.
func (s *Store) recordAtOnce(ctx context.Context, tx bun.IDB, common Message, entities []Entity, lanes int) error {
	headers, err := headersJSON(common.Headers)
	if err != nil {
		return err
	}
	ledger, messages := s.table("outbox_revisions"), s.table("outbox_messages")
	shared := []any{common.Model, common.Signal, orNull(string(common.Meta)), headers, orNull(common.CorrelationID)}
	var values []any
	for _, e := range entities {
		values = append(values, lane(common.Model, e.Key, lanes), e.Key, string(e.PK), string(e.Data))
	}
	var query string
	var args []any
	if len(entities) == 1 {
		query = s.recordQuery("", "VALUES (?, ?, 0, 0, "+s.dialect.now()+")", "?, ?, ?::json, ?::json", "l")
		args = slices.Concat([]any{ledger, common.Model, entities[0].Key, messages}, values, shared)
	} else {
		const row = "(?, ?, ?, ?)"
		query = s.recordQuery(`v (lane, "key", pk, data) AS (VALUES `+row+strings.Repeat(", "+row, len(entities)-1)+"), ",
			`SELECT ?, "key", 0, 0, `+s.dialect.now()+" FROM v", `v.lane, v."key", v.pk::json, v.data::json`, `v JOIN l USING ("key")`)
		args = slices.Concat(values, []any{ledger, common.Model, messages}, shared)
	}
	_, err = tx.ExecContext(ctx, query, args...)
	return err
}

// recordQuery is the statement around what differs: where the values stand, the ledger rows to raise, the message's own
// columns, and where those come from.
func (s *Store) recordQuery(values, ledgerRows, own, from string) string {
	return `
		WITH ` + values + `l AS (
			INSERT INTO ? (model, "key", revision, produced, updated_at) ` + ledgerRows + `
			` + s.raise() + `, deleted = FALSE
			RETURNING "key", revision, after, updated_at)
		INSERT INTO ? (lane, "key", pk, data, model, "signal", meta, headers, correlation_id, revision, after, updated_at)
		SELECT ` + own + `, ?, ?, ?::json, ?::json, ?, l.revision, l.after, l.updated_at FROM ` + from
}

func (s *Store) recordInSteps(ctx context.Context, tx bun.IDB, common Message, entities []Entity) error {
	keys := make([]Key, len(entities))
	for i, e := range entities {
		keys[i] = Key{common.Model, e.Key}
	}
	revisions, err := s.Lock(ctx, tx, keys)
	if err != nil {
		return err
	}
	var done Settlement
	messages := make([]Message, len(entities))
	for i, e := range entities {
		r := revisions[keys[i]]
		m := common
		m.Key, m.PK, m.Data = e.Key, e.PK, e.Data
		m.Revision, m.After, m.Updated = r.Revision, r.After, r.Updated
		messages[i] = m
		if r.WasDeleted {
			done.Restored = append(done.Restored, r.Key)
		}
	}
	if err := s.Settle(ctx, tx, done); err != nil {
		return err
	}
	return s.Append(ctx, tx, messages)
}
