package admin

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// MaxLanes is the largest number of lanes.
const MaxLanes = queue.MaxLanes

// Lane is one of the partitions of the keys, and who publishes from it.
type Lane struct {
	// Number counts from 0.
	Number int
	// Owner is the relay that has it, empty where none has.
	Owner string
	// Epoch grows with each change of the owner.
	Epoch int64
	// Left is how long the lease runs, by the database's clock; negative where it ran out.
	Left time.Duration
}

// Lanes returns all lanes in their order.
func (m *Master) Lanes(ctx context.Context) ([]Lane, error) {
	owners, err := m.queue.LaneOwners(ctx)
	lanes := make([]Lane, len(owners))
	for i, o := range owners {
		lanes[i] = Lane{Number: o.Lane, Owner: o.Owner, Epoch: o.Epoch, Left: o.Left}
	}
	return lanes, err
}

// SetLanes changes the number of lanes, 1 to [MaxLanes], while writers write and relays run. It
// waits until few messages are unsent, has the relays give back all lanes, and moves what is left
// in one short transaction. It tries until ctx ends; then all stays as it was. tell is told what it
// waits for.
func (m *Master) SetLanes(ctx context.Context, count int, tell func(string)) error {
	return m.queue.SetLanes(ctx, count, tell)
}
