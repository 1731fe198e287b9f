package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Claimed is a message on its way to the broker.
type Claimed struct {
	Message
	// Attempts is how often the key's oldest unsent message has failed already.
	Attempts int
	// Invalid says why the row is no message, nil if it is one. It is a failure of this row alone (P9).
	Invalid error
}

// maxClaimBytes bounds the payload that one claim brings into memory, whatever its number of messages.
const maxClaimBytes = 4 << 20

// Claim reads the oldest unsent messages of each lane, at most perLane of each: lane by lane, and in a lane in the
// order of the identity, which per key is the order of revisions. Keys that wait in outbox_retries are left out, with
// all their messages. cut says that the claim ended early because of its size; then the last lanes are missing.
//
// It looks for what is there, not for what came since the last time: a row that commits late with a low id is simply
// found by the next claim. It takes no lock; whoever owns the lane is the only one who reads it.
//
// It takes from every lane, so that a large backlog in one holds up no other, and so that there are many different
// keys among the messages, which may be published at once.
func (s *Store) Claim(ctx context.Context, lanes []int, perLane int) (claimed []Claimed, cut bool, err error) {
	if len(lanes) == 0 {
		return nil, false, nil
	}
	rows, err := s.db.QueryContext(ctx, s.claimQuery(lanes, perLane))
	if err != nil {
		return nil, false, fmt.Errorf("claim messages: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	size := 0
	for rows.Next() {
		m, err := scanClaimed(rows)
		if err != nil {
			return nil, false, fmt.Errorf("read a claimed message: %w", err)
		}
		claimed = append(claimed, m)
		if size += len(m.Data) + len(m.Previous) + len(m.Meta); size > maxClaimBytes {
			return claimed, true, nil
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("claim messages: %w", err)
	}
	return claimed, false, nil
}

// claimQuery reads retries in subqueries that cannot be flattened into a join, on purpose: each lane stays a range
// scan of the index (lane, id) that stops at its limit, however large the backlog is. A hash join would read it whole.
func (s *Store) claimQuery(lanes []int, perLane int) string {
	retries := string(s.table("outbox_retries")) + s.sql(` AS r WHERE r.model = m.model AND r."key" = m."key"`)
	due := "coalesce((SELECT r.next_attempt_at <= " + s.dialect.now() + " FROM " + retries + "), TRUE)"
	return `
		SELECT ` + s.claimColumns() + `,
			coalesce((SELECT r.attempts FROM ` + retries + `), 0)
		FROM ` + s.dialect.oldestPerLane(string(s.table("outbox_lanes")), string(s.table("outbox_messages")), due, lanes, perLane) + `
		ORDER BY m.lane, m.id`
}

// claimColumns are those of a message m, as scanClaimed reads them before the attempts.
func (s *Store) claimColumns() string {
	return s.sql(`m.id, m.lane, m.model, m."key", m.revision, m.after, m."signal", m.queue, m.pk, m.data, m.previous,
			m.meta, m.headers, m.correlation_id, `) + s.dialect.micros("m.updated_at") + `, ` +
		s.dialect.micros("m.created_at") + `, ` + s.dialect.micros("m.expires_at")
}

func joinInts(numbers []int) string {
	text := make([]string, len(numbers))
	for i, n := range numbers {
		text[i] = strconv.Itoa(n)
	}
	return strings.Join(text, ", ")
}

func scanClaimed(rows *sql.Rows) (Claimed, error) {
	var m Claimed
	var queue, correlation sql.NullString
	var headers []byte
	var updated, created int64
	var expires sql.NullInt64
	err := rows.Scan(&m.ID, &m.Lane, &m.Model, &m.Key, &m.Revision, &m.After, &m.Signal, &queue,
		(*[]byte)(&m.PK), (*[]byte)(&m.Data), (*[]byte)(&m.Previous), (*[]byte)(&m.Meta), &headers, &correlation,
		&updated, &created, &expires, &m.Attempts)
	if err != nil {
		return Claimed{}, err
	}
	if len(headers) > 0 {
		if err := json.Unmarshal(headers, &m.Headers); err != nil {
			m.Invalid = fmt.Errorf("headers of outbox message %d: %w", m.ID, err)
		}
	}
	m.Queue, m.CorrelationID = queue.String, correlation.String
	m.Updated, m.Created = time.UnixMicro(updated).UTC(), time.UnixMicro(created).UTC()
	if expires.Valid {
		m.Expires = time.UnixMicro(expires.Int64).UTC()
	}
	return m, nil
}
