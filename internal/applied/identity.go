package applied

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Identity is which database the replica's tables are in: drawn when they were made, and another
// one in a copy, as far as the database can tell.
func (s *Tables) Identity(ctx context.Context) (string, error) {
	var id string
	if err := s.DB().QueryRowContext(ctx, "SELECT id FROM ?",
		s.Table("replica_identity")).Scan(&id); err != nil {
		return "", fmt.Errorf("read the identity of the replica's database: %w", err)
	}
	place, err := s.Place(ctx, "replica_identity", false)
	if err != nil {
		return "", fmt.Errorf("ask where the replica's database is: %w", err)
	}
	if place != "" {
		sum := sha256.Sum256([]byte(place))
		id += "-" + hex.EncodeToString(sum[:4])
	}
	return id, nil
}

// Neighbour is another database that was found behind a queue.
type Neighbour struct {
	Queue, ID string
	// First and Last are when it was found, by the clock of this database, Times how often.
	First, Last time.Time
	Times       int64
}

// NoteNeighbour notes that another database was found behind the queue just now.
func (s *Tables) NoteNeighbour(ctx context.Context, queue, id string) error {
	table := string(s.Table("replica_databases"))
	now := s.dialect.Now()
	_, err := s.DB().ExecContext(ctx,
		"INSERT INTO ? (queue, id, first_at, last_at, times) VALUES (?, ?, "+now+", "+now+", 1)"+
			s.Upsert("queue, id", "last_at")+", times = "+table+
			".times + 1", s.Table("replica_databases"), queue, id)
	if err != nil {
		return fmt.Errorf("note another database behind queue %s: %w", queue, err)
	}
	return nil
}

// Neighbours returns the other databases that were found, and the time by the database's clock.
func (s *Tables) Neighbours(ctx context.Context) (all []Neighbour, now time.Time, err error) {
	if now, err = s.Now(ctx); err != nil {
		return nil, now, err
	}
	rows, err := s.DB().QueryContext(ctx, "SELECT queue, id, "+s.dialect.Micros("first_at")+", "+
		s.dialect.Micros("last_at")+
		", times FROM ? ORDER BY queue, first_at, id", s.Table("replica_databases"))
	if err != nil {
		return nil, now, fmt.Errorf("read the other databases behind the queue: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var n Neighbour
		var first, last int64
		if err := rows.Scan(&n.Queue, &n.ID, &first, &last, &n.Times); err != nil {
			return nil, now, fmt.Errorf("read the other databases behind the queue: %w", err)
		}
		n.First, n.Last = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		all = append(all, n)
	}
	return all, now, rows.Err()
}
