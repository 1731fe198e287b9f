package master

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// Append writes messages into the outbox, in order. Their keys must be locked by Lock in the same
// transaction: that is what makes the identity grow with the revision.
func (w *Writer) Append(
	ctx context.Context, tx bun.IDB, messages []outgoing.Message, to *handover.Appended,
) error {
	if len(messages) == 0 {
		return nil
	}
	lanes, err := w.lanes.Numbering(ctx, tx)
	if err != nil {
		return err
	}
	size := func(m outgoing.Message) int {
		return 300 + len(m.Previous) + len(m.Meta) + len(m.Key) + db.SizeQuoted(m.Data)
	}
	for chunk := range db.ChunkBySize(messages, size, w.dialect.MaxStatement()) {
		if err := w.appendChunk(ctx, tx, chunk, lanes, to); err != nil {
			err = w.lanes.Refused(err)
			return fmt.Errorf("append %d messages to the outbox: %w", len(messages), err)
		}
	}
	return nil
}

func (w *Writer) appendChunk(ctx context.Context, tx bun.IDB, messages []outgoing.Message,
	lanes outgoing.Numbering, to *handover.Appended) error {
	created := w.dialect.created()
	row := "(" + w.lanes.Value() + ", ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
	if created != nil {
		row += ", ?"
	}
	row += ")"
	args := []any{w.Table("outbox_messages")}
	for _, m := range messages {
		headers, err := headersJSON(m.Headers)
		if err != nil {
			return err
		}
		var expires any
		if !m.Expires.IsZero() {
			expires = w.dialect.Time(m.Expires)
		}
		args = append(args, lanes.Lane(m.Model, m.Key), m.Model, m.Key, m.Revision, m.After,
			m.Signal,
			db.OrNull(m.Queue), string(m.PK), string(m.Data),
			db.OrNull(string(m.Previous)), db.OrNull(string(m.Meta)),
			headers, db.OrNull(m.CorrelationID), w.dialect.Time(m.Updated), expires, m.Keep)
		if created != nil {
			args = append(args, created)
		}
	}
	columns := `lane, model, "key", revision, after, "signal", queue, pk, data, previous, meta,
			headers, correlation_id, updated_at, expires_at, keep`
	if created != nil {
		columns += ", created_at"
	}
	statement := w.SQL(`
		INSERT INTO ? (`+columns+`)
		VALUES `) + row + strings.Repeat(", "+row, len(messages)-1)
	if !to.Wants(len(messages)) {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	}
	statement += w.SQL(` RETURNING model, "key", id, `) + w.dialect.Micros("created_at")
	rows, err := tx.QueryContext(ctx, statement, args...)
	if err != nil {
		return err
	}
	drawn, err := scanDrawn(rows)
	if err != nil {
		return err
	}
	for _, m := range messages {
		d := drawn[db.Key{Model: m.Model, Key: m.Key}]
		m.ID, m.Created, m.Lane = d.id, d.created, lanes.Lane(m.Model, m.Key)
		to.Add(m)
	}
	return nil
}

// drawnRow is what the database gave a message.
type drawnRow struct {
	id      int64
	created time.Time
}

func scanDrawn(rows *sql.Rows) (map[db.Key]drawnRow, error) {
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	all := map[db.Key]drawnRow{}
	for rows.Next() {
		var key db.Key
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

// chunkBySize splits items so that the text of one statement stays under limit, with at least one
// per chunk.
