package applied

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Verification is how the last comparison of a model with its master ended.
type Verification struct {
	Queue, Model, Outcome string
	// Through is up to when all was proven to be here, zero for never; Ended when the comparison
	// ended. Both are by the master's clock.
	Through, Ended time.Time
	// Found counts the keys that differed, by how.
	Found map[string]int64
}

// NoteVerification replaces what was noted of a model.
func (s *Tables) NoteVerification(ctx context.Context, v Verification) error {
	found, err := json.Marshal(v.Found)
	if err == nil {
		_, err = s.DB().ExecContext(ctx,
			"INSERT INTO ? (queue, model, outcome, through_at, ended_at, found) VALUES (?, ?, ?, ?, ?, ?)"+
				s.Upsert("queue, model", "outcome", "through_at", "ended_at", "found"),
			s.Table("replica_verifications"), v.Queue, v.Model, v.Outcome, s.TimeOrNull(v.Through),
			s.TimeOrNull(v.Ended), string(found))
	}
	if err != nil {
		return fmt.Errorf("note how %s was verified: %w", v.Model, err)
	}
	return nil
}

// Verifications returns what was noted, of all queues.
func (s *Tables) Verifications(ctx context.Context) (all []Verification, err error) {
	rows, err := s.DB().QueryContext(ctx, "SELECT queue, model, outcome, "+
		s.dialect.Micros("through_at")+", "+s.dialect.Micros("ended_at")+
		", found FROM ? ORDER BY queue, model", s.Table("replica_verifications"))
	if err != nil {
		return nil, fmt.Errorf("read how models were verified: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var v Verification
		var through *int64
		var ended int64
		var found string
		err := rows.Scan(&v.Queue, &v.Model, &v.Outcome, &through, &ended, &found)
		if err == nil {
			err = json.Unmarshal([]byte(found), &v.Found)
		}
		if err != nil {
			return nil, fmt.Errorf("read how models were verified: %w", err)
		}
		if through != nil {
			v.Through = time.UnixMicro(*through).UTC()
		}
		v.Ended = time.UnixMicro(ended).UTC()
		all = append(all, v)
	}
	return all, rows.Err()
}
