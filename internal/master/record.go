package master

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

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// Entity is one entity whose state is known.
type Entity struct {
	Key     string
	Existed bool // as in Change
	PK      json.RawMessage
	Data    json.RawMessage
	// Row is a condition, in SQL, that its row (ComparedRow) is what Data says. Record compares
	// with it where it records one entity with PlainRows.
	Row string
}

// Record is Lock, Settle and Append in one for saved entities of one model whose state is believed
// to be known: the transaction wrote the whole row and holds its lock, and nothing else belongs to
// the entity. common holds what their messages share: model, meta, headers and correlation id; they
// are SAVEs. It records nothing, and returns false, where a row is not what its state says.
//
// On PostgreSQL it is one statement instead of three and a read. In one statement the ledger's lock
// comes too late for reading rows that others may change (the snapshot is older), which is why only
// rows that the transaction itself wrote may take this way. Their comparison is in the statement,
// so nothing can come in between but a deferred trigger; where the database has one, nothing is
// recorded.
//
// rows may be nil for states that are certain.
func (w *Writer) Record(
	ctx context.Context, tx bun.IDB, common outgoing.Message, entities []Entity, rows *PlainRows,
	to *handover.Appended,
) (recorded bool, err error) {
	// the one lock order
	slices.SortFunc(entities, func(a, b Entity) int { return strings.Compare(a.Key, b.Key) })
	record := w.recordInSteps
	if w.dialect.recordsInFunction() {
		record = w.recordInFunction
	}
	size := func(e Entity) int { return 60 + 2*len(e.Key) + 2*db.SizeQuoted(e.Data) }
	chunks := slices.Collect(db.ChunkBySize(entities, size, w.dialect.MaxStatement()))
	if len(chunks) > 1 && rows != nil {
		return false, nil // the second might be refused when the first is recorded
	}
	for _, chunk := range chunks {
		recorded, err := record(ctx, tx, common, chunk, rows, to)
		if err != nil {
			err = w.lanes.Refused(err)
			return false, fmt.Errorf("record %d entities in the outbox: %w", len(entities), err)
		}
		if !recorded {
			return false, nil
		}
	}
	return true, nil
}

// recordInFunction calls the functions that the migrations made. One entity is by far the most
// frequent case, and arrays of one cost a quarter more.
func (w *Writer) recordInFunction(
	ctx context.Context, tx bun.IDB, common outgoing.Message, entities []Entity, rows *PlainRows,
	to *handover.Appended,
) (bool, error) {
	headers, err := headersJSON(common.Headers)
	if err != nil {
		return false, err
	}
	lanes, err := w.lanes.Numbering(ctx, tx)
	if err != nil {
		return false, err
	}
	shared := []any{db.OrNull(string(common.Meta)), headers, db.OrNull(common.CorrelationID)}
	before := func(e Entity) []any {
		return []any{lanes.Lane(common.Model, e.Key), common.Model, e.Key, e.Existed, string(e.PK)}
	}
	if stmt := w.preparedFor(rows); stmt != nil && len(entities) == 1 {
		if own, ok := tx.(bun.Tx); ok {
			args := append(append(before(entities[0]), string(entities[0].Data)), shared...)
			return recordPrepared(ctx, own.StmtContext(ctx, stmt), args, common, entities[0], lanes,
				to)
		}
	}
	if to.Wants(len(entities)) {
		return w.recordOffered(ctx, tx, common, entities, rows, lanes, before, shared, to)
	}
	if len(entities) == 1 {
		args := append(append([]any{w.Table("outbox_record")}, before(entities[0])...),
			string(entities[0].Data))
		args = append(append(args, shared...), bun.Safe(rows.sameAs(entities[0].Row)))
		return returnsRow(tx.QueryContext(ctx, "SELECT ?(?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE ?",
			args...))
	}
	var laneOf, keys, existed, pks, data db.Array
	for _, e := range entities {
		laneOf.Add(strconv.Itoa(lanes.Lane(common.Model, e.Key)))
		keys.Add(e.Key)
		existed.Add(strconv.FormatBool(e.Existed))
		pks.Add(string(e.PK))
		data.Add(string(e.Data))
	}
	args := []any{w.Table("outbox_record_many"), laneOf.Literal(), common.Model, keys.Literal(),
		existed.Literal(), pks.Literal()}
	args = append(append(args, shared...), data.Literal(),
		bun.Safe(rows.allSame("d.data", len(entities))))
	return returnsRow(tx.QueryContext(ctx, `SELECT ?(?, ?, ?, ?, ?, d.data, ?, ?, ?)
		FROM (SELECT ?::text[] AS data) AS d WHERE ?`, args...))
}

// returnsRow says whether a query returned a row: drivers do not agree on how many a SELECT
// affected.
func returnsRow(rows *sql.Rows, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	found := rows.Next()
	for rows.Next() {
		continue
	}
	return found, rows.Err()
}

// recordOffered records a few entities and learns what was drawn for them. The parts of a UNION ALL
// run one after the other. What the function draws is read as one value: as the columns of a table
// that it makes, it would cost a fifth more.
func (w *Writer) recordOffered(
	ctx context.Context, tx bun.IDB, common outgoing.Message, entities []Entity,
	plain *PlainRows, lanes outgoing.Numbering,
	before func(Entity) []any, shared []any, to *handover.Appended,
) (recorded bool, err error) {
	var data db.Array
	for _, e := range entities {
		data.Add(string(e.Data))
	}
	query := "SELECT 0, ?(?, ?, ?, ?, ?, ?, ?, ?, ?)::text WHERE ?"
	args := append(append([]any{w.Table("outbox_record")}, before(entities[0])...),
		string(entities[0].Data))
	args = append(append(args, shared...), bun.Safe(plain.sameAs(entities[0].Row)))
	if len(entities) > 1 { // all or none
		var parts []string
		args = []any{data.Literal(), bun.Safe(plain.allSame("d.data", len(entities)))}
		for i, e := range entities {
			parts = append(parts, "SELECT "+strconv.Itoa(i)+", ?(?, ?, ?, ?, ?, (d.data)["+
				strconv.Itoa(i+1)+"]::json, ?, ?, ?)::text FROM d")
			args = append(append(append(args, w.Table("outbox_record")), before(e)...), shared...)
		}
		query = "WITH d AS MATERIALIZED (SELECT data FROM (SELECT ?::text[] AS data) AS d WHERE " +
			"?) " + strings.Join(parts, " UNION ALL ")
	}
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var i int
		var drawn string
		if err := rows.Scan(&i, &drawn); err != nil {
			return false, err
		}
		addRecorded(to, common, entities[i], lanes, drawn)
		recorded = true
	}
	return recorded, rows.Err()
}

// addRecorded takes in the message of an entity that was recorded. What was drawn for it stands in
// the database either way, so where it cannot be read the relay is to read the message, and the
// transaction goes on.
func addRecorded(
	to *handover.Appended, common outgoing.Message, e Entity, lanes outgoing.Numbering, row string,
) {
	m := common
	m.Key, m.PK, m.Data, m.Lane = e.Key, e.PK, e.Data, lanes.Lane(common.Model, e.Key)
	if !draw(&m, row) {
		to.Leave()
		return
	}
	to.Add(m)
}

// draw reads (_id,_revision,_after,_updated,_follows,_created), what outbox_record returns, in
// PostgreSQL's notation of a row. It returns false if it cannot: a session may write times
// otherwise than ISO does (DateStyle).
func draw(m *outgoing.Message, row string) bool {
	fields := strings.Split(strings.Trim(row, "()"), ",")
	if len(fields) != 6 {
		return false
	}
	id, noID := strconv.ParseInt(fields[0], 10, 64)
	revision, noRevision := strconv.ParseInt(fields[1], 10, 64)
	updated, noTime := parseTime(strings.Trim(fields[3], `"`))
	created, neverMade := parseTime(strings.Trim(fields[5], `"`))
	m.ID, m.Revision, m.Updated, m.Created = id, revision, updated, created
	m.Follows = fields[4] == "t"
	var noAfter error
	if fields[2] != "" {
		var after int64
		after, noAfter = strconv.ParseInt(fields[2], 10, 64)
		m.After = &after
	}
	return errors.Join(noID, noRevision, noTime, neverMade, noAfter) == nil
}

// parseTime reads PostgreSQL's ISO notation, in which an offset has minutes only where it needs
// them.
func parseTime(text string) (time.Time, error) {
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", text)
	if err != nil {
		at, err = time.Parse("2006-01-02 15:04:05.999999-07:00", text)
	}
	return at.UTC(), err
}

// recordInSteps is Record where the states are certain: no database without the function compares
// rows.
func (w *Writer) recordInSteps(
	ctx context.Context, tx bun.IDB, common outgoing.Message, entities []Entity, rows *PlainRows,
	to *handover.Appended,
) (recorded bool, err error) {
	if rows != nil {
		return false, nil
	}

	changes := make([]ledger.Change, len(entities))
	for i, e := range entities {
		changes[i] = ledger.Change{Key: db.Key{Model: common.Model, Key: e.Key}, Existed: e.Existed}
	}
	revisions, err := w.revisions.Lock(ctx, tx, changes)
	if err != nil {
		return false, err
	}
	var done ledger.Settlement
	messages := make([]outgoing.Message, len(entities))
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
	if err := w.revisions.Settle(ctx, tx, done); err != nil {
		return false, err
	}
	return true, w.Append(ctx, tx, messages, to)
}
