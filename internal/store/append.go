package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/uptrace/bun"
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
	size := func(m Message) int { return 300 + len(m.Previous) + len(m.Meta) + len(m.Key) + sizeQuoted(m.Data) }
	for chunk := range chunkBySize(messages, size, s.dialect.maxStatement()) {
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
	args := []any{s.table("outbox_messages")}
	for _, m := range messages {
		headers, err := headersJSON(m.Headers)
		if err != nil {
			return err
		}
		var expires any
		if !m.Expires.IsZero() {
			expires = s.dialect.time(m.Expires)
		}
		args = append(args, lanes.of(m.Model, m.Key), m.Model, m.Key, m.Revision, m.After, m.Signal,
			orNull(m.Queue), string(m.PK), string(m.Data), orNull(string(m.Previous)), orNull(string(m.Meta)),
			headers, orNull(m.CorrelationID), s.dialect.time(m.Updated), expires, m.Keep)
		if created != nil {
			args = append(args, created)
		}
	}
	columns := `lane, model, "key", revision, after, "signal", queue, pk, data, previous, meta,
			headers, correlation_id, updated_at, expires_at, keep`
	if created != nil {
		columns += ", created_at"
	}
	statement := s.sql(`
		INSERT INTO ? (`+columns+`)
		VALUES `) + row + strings.Repeat(", "+row, len(messages)-1)
	if !to.wants(len(messages)) {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	}
	rows, err := tx.QueryContext(ctx, statement+s.sql(` RETURNING model, "key", id, `)+s.dialect.micros("created_at"), args...)
	if err != nil {
		return err
	}
	drawn, err := scanDrawn(rows)
	if err != nil {
		return err
	}
	for _, m := range messages {
		d := drawn[Key{m.Model, m.Key}]
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

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func headersJSON(headers map[string]string) (any, error) {
	if len(headers) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(headers)
	return string(text), err
}

// chunkBySize splits items so that the text of one statement stays under limit, with at least one per chunk.
func chunkBySize[T any](items []T, size func(T) int, limit int) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		start, total := 0, 0
		for i, item := range items {
			n := size(item)
			if i > start && total+n > limit {
				if !yield(items[start:i:i]) {
					return
				}
				start, total = i, 0
			}
			total += n
		}
		if start < len(items) {
			yield(items[start:])
		}
	}
}

// sizeQuoted is how long a text is as a literal, in which an apostrophe is doubled.
func sizeQuoted(text []byte) int { return len(text) + bytes.Count(text, []byte("'")) }
