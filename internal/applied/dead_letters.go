package applied

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// BodyEncoding is the metadata key that says how a dead letter's body is
// kept, where it is not as it came.
const BodyEncoding = "cqrsync_body_encoding"

// DeadLetter is a message that a replica can never apply, whole, with the reason.
type DeadLetter struct {
	// Queue is the replica's.
	Queue string
	// Model, Key and Revision are empty and nil where the message could not be read.
	Model    string
	Key      string
	Revision *int64
	// Body and Metadata are what the broker delivered.
	Body     []byte
	Metadata map[string]string
	Error    string
}

// BodyCut is the metadata key that says how many bytes a dead letter's body had, where the database
// takes only the first of them.
const BodyCut = "cqrsync_body_cut"

// AddDeadLetter keeps a dead letter. Nothing that a broker can deliver is refused: a text column
// holds neither NUL nor invalid UTF-8, so a body with such bytes is kept as base64 and its metadata
// says so under BodyEncoding. Of a body that is larger than MostText the rest is cut off, which the
// metadata says under BodyCut, and the error.
func (s *Tables) AddDeadLetter(ctx context.Context, conn bun.IDB, d DeadLetter) error {
	metadata := maps.Clone(d.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	body := s.bodyText(&d, metadata)
	headers, err := json.Marshal(metadata)
	if err != nil {
		return fmt.Errorf("encode a dead letter's metadata: %w", err)
	}
	values := []any{
		printable(d.Queue), db.OrNull(printable(d.Model)), db.OrNull(printable(d.Key)), d.Revision,
		body, string(headers), printable(d.Error),
	}
	if tx, inTx := conn.(bun.Tx); inTx && len(body) > largeBody {
		_, err = tx.Tx.ExecContext(ctx, s.SQL("INSERT INTO "+string(s.Table("replica_dead_letters"))+
			` (queue, model, "key", revision, body, metadata, error)
			VALUES (`+s.dialect.placeholders(len(values))+")"), values...)
	} else {
		_, err = conn.ExecContext(ctx, s.SQL(`
			INSERT INTO ? (queue, model, "key", revision, body, metadata, error)
			VALUES (?, ?, ?, ?, ?, ?, ?)`), append([]any{s.Table("replica_dead_letters")}, values...)...)
	}
	if err != nil {
		return fmt.Errorf("keep a dead letter: %w", err)
	}
	return nil
}

// largeBody is from where on a body does not become a part of the statement:
// that takes ten times its memory.
const largeBody = 1 << 20

func (postgres) placeholders(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = "$" + strconv.Itoa(i+1)
	}
	return strings.Join(list, ", ")
}

func (mariadb) placeholders(n int) string { return strings.Repeat("?, ", n-1) + "?" }
func (sqlite) placeholders(n int) string  { return strings.Repeat("?, ", n-1) + "?" }

// bodyText is the body as a text column can hold it. What it is instead
// stands in the metadata and the error.
func (s *Tables) bodyText(d *DeadLetter, metadata map[string]string) string {
	whole, plain := len(d.Body), utf8.Valid(d.Body) && bytes.IndexByte(d.Body, 0) < 0
	most := s.MostText()
	if !plain {
		most = base64.StdEncoding.DecodedLen(most) - base64.StdEncoding.DecodedLen(4)
	}
	kept := d.Body
	if whole > most {
		for kept = kept[:most]; plain && len(kept) > 0 && !utf8.RuneStart(d.Body[len(kept)]); {
			kept = kept[:len(kept)-1]
		}
		metadata[BodyCut] = strconv.Itoa(whole)
		d.Error += fmt.Sprintf("; only the first %d of its %d bytes are kept, which is what the "+
			"database takes", len(kept), whole)
	}
	if plain {
		return string(kept)
	}
	metadata[BodyEncoding] = "base64"
	return base64.StdEncoding.EncodeToString(kept)
}

// printable is s as a text column can hold it. It is for what describes a
// message, never for the message itself.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// StoredDeadLetter is one as the table has it.
type StoredDeadLetter struct {
	ID int64
	DeadLetter
	// Dead is when it was given up.
	Dead time.Time
}

// DeadLetters returns at most limit dead letters, in the order of
// their identity; 0 means all of them.
func (s *Tables) DeadLetters(
	ctx context.Context, f db.DeadLetterFilter, limit int,
) ([]StoredDeadLetter, error) {
	condition, args := f.Condition(s.Database)
	query := s.SQL(`SELECT id, queue, coalesce(model, ''), coalesce("key", ''), revision, body,
		metadata, error, ` +
		s.dialect.Micros("dead_at") + " FROM ? WHERE " + condition + " ORDER BY id")
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	args = append([]any{s.Table("replica_dead_letters")}, args...)
	rows, err := s.DB().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var letters []StoredDeadLetter
	for rows.Next() {
		var d StoredDeadLetter
		var body, metadata string
		var dead int64
		if err := rows.Scan(&d.ID, &d.Queue, &d.Model, &d.Key, &d.Revision, &body, &metadata,
			&d.Error, &dead); err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		if err := json.Unmarshal([]byte(metadata), &d.Metadata); err != nil {
			return nil, fmt.Errorf("dead letter %d: metadata: %w", d.ID, err)
		}
		d.Body, d.Dead = []byte(body), time.UnixMicro(dead).UTC()
		if d.Metadata[BodyEncoding] == "base64" {
			if d.Body, err = base64.StdEncoding.DecodeString(body); err != nil {
				return nil, fmt.Errorf("dead letter %d: body: %w", d.ID, err)
			}
			delete(d.Metadata, BodyEncoding)
		}
		letters = append(letters, d)
	}
	return letters, rows.Err()
}

// RemoveDeadLetters forgets dead letters for good, and returns how many.
func (s *Tables) RemoveDeadLetters(ctx context.Context, f db.DeadLetterFilter) (int64, error) {
	condition, args := f.Condition(s.Database)
	args = append([]any{s.Table("replica_dead_letters")}, args...)
	result, err := s.DB().ExecContext(ctx, "DELETE FROM ? WHERE "+condition, args...)
	if err != nil {
		return 0, fmt.Errorf("remove dead letters: %w", err)
	}
	return result.RowsAffected()
}

// CountDeadLetters returns how many dead letters of a queue there are, per model, or of all where
// queue is empty; those of which nobody knows the model are under "".
func (s *Tables) CountDeadLetters(ctx context.Context, queue string) (map[string]int64, error) {
	var rows []struct {
		Model *string
		N     int64
	}
	of, args := "", []any{s.Table("replica_dead_letters")}
	if queue != "" {
		of, args = " WHERE queue = ?", append(args, queue)
	}
	err := s.DB().NewRaw("SELECT model, count(*) AS n FROM ?"+of+" GROUP BY model", args...).
		Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	counts := make(map[string]int64, len(rows))
	for _, r := range rows {
		model := ""
		if r.Model != nil {
			model = *r.Model
		}
		counts[model] += r.N
	}
	return counts, nil
}
