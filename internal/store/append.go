package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Append writes messages into the outbox, in order. Their keys must be locked by Lock in the same transaction: that is
// what makes the identity grow with the revision.
func (s *Store) Append(ctx context.Context, tx bun.IDB, messages []Message, to *Appended) error {
	if len(messages) == 0 {
		return nil
	}
	lanes, err := s.numbering(ctx, tx)
	if err != nil {
		return err
	}
	size := func(m Message) int { return 300 + len(m.Previous) + len(m.Meta) + len(m.Key) + db.SizeQuoted(m.Data) }
	for chunk := range db.ChunkBySize(messages, size, s.dialect.MaxStatement()) {
		if err := s.appendChunk(ctx, tx, chunk, lanes, to); err != nil {
			err = s.renumbered(err)
			return fmt.Errorf("append %d messages to the outbox: %w", len(messages), err)
		}
	}
	return nil
}

func (s *Store) appendChunk(ctx context.Context, tx bun.IDB, messages []Message, lanes numbering, to *Appended) error {
	created := s.dialect.created()
	row := "(" + s.laneValue() + ", ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
	if created != nil {
		row += ", ?"
	}
	row += ")"
	args := []any{s.Table("outbox_messages")}
	for _, m := range messages {
		headers, err := headersJSON(m.Headers)
		if err != nil {
			return err
		}
		var expires any
		if !m.Expires.IsZero() {
			expires = s.dialect.Time(m.Expires)
		}
		args = append(args, lanes.of(m.Model, m.Key), m.Model, m.Key, m.Revision, m.After, m.Signal,
			db.OrNull(m.Queue), string(m.PK), string(m.Data), db.OrNull(string(m.Previous)), db.OrNull(string(m.Meta)),
			headers, db.OrNull(m.CorrelationID), s.dialect.Time(m.Updated), expires, m.Keep)
		if created != nil {
			args = append(args, created)
		}
	}
	columns := `lane, model, "key", revision, after, "signal", queue, pk, data, previous, meta,
			headers, correlation_id, updated_at, expires_at, keep`
	if created != nil {
		columns += ", created_at"
	}
	statement := s.SQL(`
		INSERT INTO ? (`+columns+`)
		VALUES `) + row + strings.Repeat(", "+row, len(messages)-1)
	if !to.wants(len(messages)) {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	}
	rows, err := tx.QueryContext(ctx, statement+s.SQL(` RETURNING model, "key", id, `)+s.dialect.Micros("created_at"), args...)
	if err != nil {
		return err
	}
	drawn, err := scanDrawn(rows)
	if err != nil {
		return err
	}
	for _, m := range messages {
		d := drawn[Key{Model: m.Model, Key: m.Key}]
		m.ID, m.Created, m.Lane = d.id, d.created, lanes.of(m.Model, m.Key)
		to.add(m)
	}
	return nil
}

// drawnRow is what the database gave a message.
type drawnRow struct {
	id      int64
	created time.Time
}

func scanDrawn(rows *sql.Rows) (map[Key]drawnRow, error) {
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	all := map[Key]drawnRow{}
	for rows.Next() {
		var key Key
		var d drawnRow
		var created int64
		if err := rows.Scan(&key.Model, &key.Key, &d.id, &created); err != nil {
			return nil, err
		}
		d.created = time.UnixMicro(created).UTC()
		all[key] = d
	}
	return all, rows.Err()
}

func headersJSON(headers map[string]string) (any, error) {
	if len(headers) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(headers)
	return string(text), err
}

// chunkBySize splits items so that the text of one statement stays under limit, with at least one per chunk.
