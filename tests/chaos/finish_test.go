//go:build unix

package chaos

import (
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/master/mastertest"
)

// finish stops the writers, waits until everything that they committed has arrived, and again what
// was repeated, stops the rest, and returns what was seen.
func (r *round) finish(stopRepeating func() int) *history {
	t := r.t
	if err := r.crew.dismiss(writerRole, serviceRole); err != nil {
		t.Error(err)
	}
	h := &history{said: r.crew.said, master: map[key]Content{}}
	ctx := t.Context()
	require.NoError(t, r.master.NewSelect().Model(&h.journal).Scan(ctx))
	r.readMaster(h)
	begin := time.Now()
	r.settle(h)
	stopRepeating()
	r.settle(h)
	t.Logf("equal %s after the last transaction", time.Since(begin).Round(time.Millisecond))
	if err := r.crew.dismiss(relayRole, mirrorRole, effectsRole); err != nil {
		t.Error(err)
	}
	r.readReplicas(h)
	var err error
	h.tap, err = r.exchange.tapped()
	require.NoError(t, err)
	return h
}

// settle waits until everything has arrived.
func (r *round) settle(h *history) {
	for begin := time.Now(); !r.settled(h); <-time.After(300 * time.Millisecond) {
		if time.Since(begin) > patience {
			r.t.Errorf("not everything arrived within %s of the last fault", patience)
			return
		}
	}
}

// settled says that nothing is unsent and the replicas are equal.
func (r *round) settled(h *history) bool {
	unsent := r.readReplicas(h)
	found := check(h)
	idle, err := r.exchange.idle()
	require.NoError(r.t, err)
	return unsent == 0 && idle && len(found["P7"])+len(found["P8"])+len(found["letters"]) == 0
}

func (r *round) readMaster(h *history) {
	ctx := r.t.Context()
	var items []item
	require.NoError(r.t, r.master.NewSelect().Model(&items).Scan(ctx))
	for _, row := range items {
		h.master[keyOf(itemModel, row.ID)] = row.Content
	}
	var entries []entry
	require.NoError(r.t, r.master.NewSelect().Model(&entries).Scan(ctx))
	for _, row := range entries {
		h.master[keyOf(entryModel, row.ID)] = row.Content
	}
}

func keyOf(model string, id int64) key { return key{model, strconv.FormatInt(id, 10)} }

// readReplicas reads what the replicas have, and what did not get there.
func (r *round) readReplicas(h *history) (unsent int64) {
	t, ctx := r.t, r.t.Context()
	h.replicas, h.letters, h.effects = map[string]map[key]copied{}, nil, nil
	for role, db := range r.replicas {
		rows := map[key]copied{}
		var items []itemCopy
		require.NoError(t, db.NewSelect().Model(&items).Scan(ctx))
		for _, row := range items {
			rows[keyOf(itemModel, row.ID)] = copied{row.Content, row.Revision}
		}
		var entries []entryCopy
		require.NoError(t, db.NewSelect().Model(&entries).Scan(ctx))
		for _, row := range entries {
			rows[keyOf(entryModel, row.ID)] = copied{row.Content, row.Revision}
		}
		h.replicas[role] = rows
		for _, table := range []string{"replica_dead_letters", "replica_waiting"} {
			n, err := db.NewSelect().Table(table).Count(ctx)
			require.NoError(t, err)
			for range n {
				h.letters = append(h.letters, role+": one in "+table)
			}
		}
	}
	require.NoError(t, r.replicas[effectsRole].NewSelect().Model(&h.effects).Scan(ctx))
	s, err := mastertest.New(r.master)
	require.NoError(t, err)
	status, err := s.Status(ctx)
	require.NoError(t, err)
	for range status.DeadLetters {
		h.letters = append(h.letters, "the relays gave one up")
	}
	return status.Unsent
}
