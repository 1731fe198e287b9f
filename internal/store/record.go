package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

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
	if stmt := s.prepared.Load(); stmt != nil && len(entities) == 1 {
		if own, ok := tx.(bun.Tx); ok {
			return recordPrepared(ctx, own.StmtContext(ctx, stmt), common, entities[0], lanes, call, to)
		}
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
// What the function draws is read as one value: as the columns of a table that it makes, it would cost a fifth more.
func (s *Store) recordOffered(
	ctx context.Context, tx bun.IDB, common Message, entities []Entity, lanes numbering, call func(Entity) []any, to *Appended,
) error {
	var parts []string
	var args []any
	for i, e := range entities {
		parts = append(parts, "SELECT "+strconv.Itoa(i)+", ?(?, ?, ?, ?, ?, ?, ?, ?, ?)::text")
		args = append(args, call(e)...)
	}
	rows, err := tx.QueryContext(ctx, strings.Join(parts, " UNION ALL "), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var i int
		var drawn string
		if err := rows.Scan(&i, &drawn); err != nil {
			return err
		}
		to.addRecorded(common, entities[i], lanes, drawn)
	}
	return rows.Err()
}

// Prepare makes Record keep the statement for one entity prepared on each connection, in transactions of bun. Otherwise
// reading and planning it is half of what it costs. It takes a connection of the pool, so no transaction may wait for it.
func (s *Store) Prepare(ctx context.Context) error {
	if !s.dialect.recordsInFunction() {
		return nil
	}
	stmt, err := s.db.DB.PrepareContext(ctx, fmt.Sprintf("SELECT %s($1, $2, $3, $4, $5, $6, $7, $8, $9)::text", s.table("outbox_record")))
	if err != nil {
		return fmt.Errorf("prepare outbox_record: %w (behind a proxy that pools transactions leave Config.Prepare off)", err)
	}
	if !s.prepared.CompareAndSwap(nil, stmt) { // another transaction was first
		defer func() { _ = stmt.Close() }() // the server forgets it with the connection at the latest
	}
	return nil
}

func recordPrepared(
	ctx context.Context, stmt *sql.Stmt, common Message, e Entity, lanes numbering, call func(Entity) []any, to *Appended,
) error {
	var drawn string
	if err := stmt.QueryRowContext(ctx, call(e)[1:]...).Scan(&drawn); err != nil {
		return err
	}
	if to.wants(1) {
		to.addRecorded(common, e, lanes, drawn)
	}
	return nil
}

// addRecorded takes in the message of an entity that was recorded. What was drawn for it stands in the database either way,
// so where it cannot be read the relay is to read the message, and the transaction goes on.
func (a *Appended) addRecorded(common Message, e Entity, lanes numbering, drawn string) {
	m := common
	m.Key, m.PK, m.Data, m.Lane = e.Key, e.PK, e.Data, lanes.of(common.Model, e.Key)
	if !m.draw(drawn) {
		a.rest = true
		return
	}
	a.add(m)
}

// draw reads (_id,_revision,_after,_updated,_follows,_created), what outbox_record returns, in PostgreSQL's notation of a row. It
// returns false if it cannot: a session may write times otherwise than ISO does (DateStyle).
func (m *Message) draw(row string) bool {
	fields := strings.Split(strings.Trim(row, "()"), ",")
	if len(fields) != 6 {
		return false
	}
	id, noID := strconv.ParseInt(fields[0], 10, 64)
	revision, noRevision := strconv.ParseInt(fields[1], 10, 64)
	updated, noTime := parseTime(strings.Trim(fields[3], `"`))
	created, neverMade := parseTime(strings.Trim(fields[5], `"`))
	m.ID, m.Revision, m.Updated, m.Follows, m.Created = id, revision, updated, fields[4] == "t", created
	var noAfter error
	if fields[2] != "" {
		var after int64
		after, noAfter = strconv.ParseInt(fields[2], 10, 64)
		m.After = &after
	}
	return errors.Join(noID, noRevision, noTime, neverMade, noAfter) == nil
}

// parseTime reads PostgreSQL's ISO notation, in which an offset has minutes only where it needs them.
func parseTime(text string) (time.Time, error) {
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", text)
	if err != nil {
		at, err = time.Parse("2006-01-02 15:04:05.999999-07:00", text)
	}
	return at.UTC(), err
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
