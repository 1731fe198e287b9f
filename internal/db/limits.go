package db

import (
	"context"
	"fmt"
	"math"
)

// LearnLimits asks the database how much it takes at a time. Without it MostText assumes what is
// usual.
func (d *Database) LearnLimits(ctx context.Context) error {
	query := d.sessions.packet()
	if query == "" {
		return nil
	}
	var packet int64
	if err := d.bun.QueryRowContext(ctx, query).Scan(&packet); err != nil {
		return fmt.Errorf("ask how large a statement may be: %w", err)
	}
	d.packet.Store(packet)
	return nil
}

// restOfPacket is what a statement has beside the largest text in it.
const restOfPacket = 64 << 10

// MostText is how long a text may be to be written in a statement, even when each byte of it is
// escaped.
func (d *Database) MostText() int {
	packet := d.packet.Load()
	switch {
	case d.sessions.packet() == "":
		return 400 << 20 // of PostgreSQL's gigabyte, and SQLite's
	case packet == 0:
		packet = 16 << 20
	}
	return int(min(max((packet-restOfPacket)/2, restOfPacket), math.MaxInt32))
}
