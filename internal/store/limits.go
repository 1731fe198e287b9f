package store

import (
	"context"
	"fmt"
	"math"
)

func (postgres) packet() string { return "" }
func (mysql) packet() string    { return "SELECT @@max_allowed_packet" }
func (sqlite) packet() string   { return "" }

// LearnLimits asks the database how much it takes at a time. Without it MostText assumes what is usual.
func (s *Store) LearnLimits(ctx context.Context) error {
	query := s.dialect.packet()
	if query == "" {
		return nil
	}
	var packet int64
	if err := s.db.QueryRowContext(ctx, query).Scan(&packet); err != nil {
		return fmt.Errorf("ask how large a statement may be: %w", err)
	}
	s.packet.Store(packet)
	return nil
}

// restOfPacket is what a statement has beside the largest text in it.
const restOfPacket = 64 << 10

// MostText is how long a text may be to be written in a statement, even when each byte of it is escaped.
func (s *Store) MostText() int {
	packet := s.packet.Load()
	switch {
	case s.dialect.packet() == "":
		return 400 << 20 // of PostgreSQL's gigabyte, and SQLite's
	case packet == 0:
		packet = 16 << 20
	}
	return int(min(max((packet-restOfPacket)/2, restOfPacket), math.MaxInt32))
}
