package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
)

// Entity is one entity whose state is known.
type Entity struct {
	Key     string
	Existed bool // as in Change
	PK      json.RawMessage
	Data    json.RawMessage
}

// Record is Lock, Settle and Append in one for saved entities of one model whose state is known before the lock: the
// transaction wrote the whole row and holds its lock, and nothing else belongs to the entity. common holds what their
// messages share: model, meta, headers and correlation id; they are SAVEs.
//
// On PostgreSQL it is one statement instead of three and a read. In one statement the ledger's lock comes too late for
// reading (the snapshot is older), which is why only known states may take this way.
func (s *Store) Record(ctx context.Context, tx bun.IDB, common Message, entities []Entity, to *Appended) error {
	slices.SortFunc(entities, func(a, b Entity) int { return strings.Compare(a.Key, b.Key) }) // the one lock order
	record := s.recordInSteps
	if s.dialect.recordsInFunction() {
		record = s.recordInFunction
	}
	size := func(e Entity) int { return 60 + 2*len(e.Key) + 2*sizeQuoted(e.Data) }
	for chunk := range chunkBySize(entities, size, s.dialect.maxStatement()) {
		if err := record(ctx, tx, common, chunk, to); err != nil {
			err = s.renumbered(err)
			return fmt.Errorf("record %d entities in the outbox: %w", len(entities), err)
		}
	}
	return nil
}

// recordInFunction calls the functions that the migrations made. One entity is by far the most frequent case, and arrays
// of one cost a quarter more.
func (s *Store) recordInFunction(
	ctx context.Context, tx bun.IDB, common Message, entities []Entity, to *Appended,
) error {
	headers, err := headersJSON(common.Headers)
	if err != nil {
		return err
	}
	lanes, err := s.numbering(ctx, tx)
	if err != nil {
		return err
	}
	shared := []any{orNull(string(common.Meta)), headers, orNull(common.CorrelationID)}
	call := func(e Entity) []any {
		args := []any{s.table("outbox_record"), lanes.of(common.Model, e.Key), common.Model, e.Key, e.Existed, string(e.PK), string(e.Data)}
		return append(args, shared...)
	}
	if to.wants(len(entities)) {
		return s.recordOffered(ctx, tx, common, entities, lanes, call, to)
	}
	if len(entities) == 1 {
		_, err = tx.ExecContext(ctx, "SELECT ?(?, ?, ?, ?, ?, ?, ?, ?, ?)", call(entities[0])...)
		return err
	}
	var laneOf, keys, existed, pks, data Array
	for _, e := range entities {
		laneOf.Add(strconv.Itoa(lanes.of(common.Model, e.Key)))
		keys.Add(e.Key)
		existed.Add(strconv.FormatBool(e.Existed))
		pks.Add(string(e.PK))
		data.Add(string(e.Data))
	}
	args := []any{
		s.table("outbox_record_many"), laneOf.Literal(), common.Model, keys.Literal(), existed.Literal(), pks.Literal(), data.Literal(),
	}
	_, err = tx.ExecContext(ctx, "SELECT ?(?, ?, ?, ?, ?, ?, ?, ?, ?)", append(args, shared...)...)
	return err
}

// recordOffered records a few entities and learns what was drawn for them. The parts of a UNION ALL run one after the other.
func (s *Store) recordOffered(
	ctx context.Context, tx bun.IDB, common Message, entities []Entity, lanes numbering, call func(Entity) []any, to *Appended,
) error {
	var parts []string
	var args []any
	for i, e := range entities {
		parts = append(parts, "SELECT "+strconv.Itoa(i)+", _id, _revision, _after, _updated, _follows FROM ?(?, ?, ?, ?, ?, ?, ?, ?, ?)")
		args = append(args, call(e)...)
	}
	rows, err := tx.QueryContext(ctx, strings.Join(parts, " UNION ALL "), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		m := common
		var i int
		if err := rows.Scan(&i, &m.ID, &m.Revision, &m.After, &m.Updated, &m.Follows); err != nil {
			return err
		}
		e := entities[i]
		m.Key, m.PK, m.Data, m.Lane = e.Key, e.PK, e.Data, lanes.of(common.Model, e.Key)
		m.Updated = m.Updated.UTC()
		to.add(m)
	}
	return rows.Err()
}

func (s *Store) recordInSteps(
	ctx context.Context, tx bun.IDB, common Message, entities []Entity, to *Appended,
) error {
	changes := make([]Change, len(entities))
	for i, e := range entities {
		changes[i] = Change{Key{common.Model, e.Key}, e.Existed}
	}
	revisions, err := s.Lock(ctx, tx, changes)
	if err != nil {
		return err
	}
	var done Settlement
	messages := make([]Message, len(entities))
	for i, e := range entities {
		r := revisions[changes[i].Key]
		m := common
		m.Key, m.PK, m.Data = e.Key, e.PK, e.Data
		m.Revision, m.After, m.Follows, m.Updated = r.Revision, r.After, r.Follows, r.Updated
		messages[i] = m
		if r.WasDeleted {
			done.Restored = append(done.Restored, r.Key)
		}
	}
	if err := s.Settle(ctx, tx, done); err != nil {
		return err
	}
	return s.Append(ctx, tx, messages, to)
}
