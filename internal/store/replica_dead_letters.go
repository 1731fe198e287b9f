package store

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/uptrace/bun"
)

// BodyEncoding is the metadata key that says how a dead letter's body is kept, where it is not as it came.
const BodyEncoding = "cqrsync_body_encoding"

// ReplicaDeadLetter is a message that a replica can never apply, whole, with the reason.
type ReplicaDeadLetter struct {
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

// AddReplicaDeadLetter keeps a dead letter. Nothing that a broker can deliver is refused: a text column holds neither
// NUL nor invalid UTF-8, so a body with such bytes is kept as base64 and its metadata says so under BodyEncoding.
func (s *Store) AddReplicaDeadLetter(ctx context.Context, db bun.IDB, d ReplicaDeadLetter) error {
	body, metadata := string(d.Body), maps.Clone(d.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	if !utf8.Valid(d.Body) || bytes.IndexByte(d.Body, 0) >= 0 {
		body, metadata[BodyEncoding] = base64.StdEncoding.EncodeToString(d.Body), "base64"
	}
	headers, err := json.Marshal(metadata)
	if err != nil {
		return fmt.Errorf("encode a dead letter's metadata: %w", err)
	}
	_, err = db.ExecContext(ctx, s.sql(`
		INSERT INTO ? (queue, model, "key", revision, body, metadata, error)
		VALUES (?, ?, ?, ?, ?, ?, ?)`),
		s.table("replica_dead_letters"), printable(d.Queue), orNull(printable(d.Model)), orNull(printable(d.Key)),
		d.Revision, body, string(headers), printable(d.Error))
	if err != nil {
		return fmt.Errorf("keep a dead letter: %w", err)
	}
	return nil
}

// printable is s as a text column can hold it. It is for what describes a message, never for the message itself.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
