package demo

import (
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
)

// outcome is what one transaction did to which orders.
type outcome struct {
	created, updated, deleted, restored []int64
}

func (o outcome) changes() int {
	return len(o.created) + len(o.updated) + len(o.deleted) + len(o.restored)
}

// known is which orders there are, as far as the committed transactions of this run say. All
// writers share it, so that they get in each other's way: an order is changed by several at once,
// or deleted under the hands of another.
type known struct {
	mu      sync.Mutex
	live    []int64
	deleted []int64
}

func (k *known) learn(did outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live = append(append(k.live, did.created...), did.restored...)
	k.deleted = append(k.deleted, did.deleted...)
}

// some returns up to n different orders, sorted.
func (k *known) some(random *rand.Rand, n int) []int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []int64
	for range min(n, len(k.live)) {
		ids = append(ids, pick(random, k.live))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// takeLive returns an order that no other writer will delete or create again.
func (k *known) takeLive(random *rand.Rand) (int64, error) { return k.take(random, &k.live) }

// takeDeleted returns a deleted order that no other writer will create again.
func (k *known) takeDeleted(random *rand.Rand) (int64, error) { return k.take(random, &k.deleted) }

func (k *known) take(random *rand.Rand, from *[]int64) (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(*from)
	if n == 0 {
		return 0, orders.ErrNotFound
	}
	at := random.IntN(n)
	id := (*from)[at]
	(*from)[at] = (*from)[n-1]
	*from = (*from)[:n-1]
	return id, nil
}
