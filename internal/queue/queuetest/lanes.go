package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/queue"
)

func ownsEverything(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	require.Len(t, owned, lanes)
	for i, l := range owned {
		require.Equal(t, queue.Lane{Lane: i, Epoch: 1, Nonce: owned[0].Nonce}, l)
	}
	require.Equal(t, owned, s.balance(t, "a", ttl), "balancing again changes nothing")
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.NotEmpty(t, renewed.Incarnation.ID)
	renewed.Incarnation = queue.Incarnation{}
	require.Equal(t, queue.Ownership{Lanes: owned, Share: lanes, Alone: true}, renewed)
	require.False(t, renewed.Unbalanced())
}

func sharesFairly(t *testing.T, s *queueSuite) {
	if s.OneWriter {
		t.Skip("one relay at a time")
	}
	relays := []string{"a", "b", "c"}
	for range 3 { // each has given back and taken after two rounds
		for _, relay := range relays {
			s.balance(t, relay, ttl)
		}
	}
	owner := map[int]string{}
	for _, relay := range relays {
		owned := s.balance(t, relay, ttl)
		require.GreaterOrEqual(t, len(owned), 20)
		require.LessOrEqual(t, len(owned), 22)
		for _, l := range owned {
			require.NotContains(t, owner, l.Lane)
			owner[l.Lane] = relay
		}
	}
	require.Len(t, owner, lanes)
	for _, relay := range relays {
		renewed, err := s.Renew(t.Context(), relay, ttl)
		require.NoError(t, err)
		require.False(t, renewed.Coming(), "nobody has what another one should have")
	}
	owned, err := s.Balance(t.Context(), "d", ttl)
	require.NoError(t, err)
	require.Empty(t, owned.Lanes)
	require.True(t, owned.Coming(), "the others have more than their share now")
	require.NoError(t, s.Leave(t.Context(), "a", s.balance(t, "a", ttl)))
	renewed, err := s.Renew(t.Context(), "d", ttl)
	require.NoError(t, err)
	require.True(t, renewed.Coming(), "some have no owner")
}

func handsBack(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	require.Empty(t, s.balance(t, "b", ttl))
	require.NoError(t, s.Leave(t.Context(), "a", owned))
	require.Equal(t, int64(1), s.status(t).Relays)
	require.Len(t, s.balance(t, "b", ttl), lanes)
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Empty(t, renewed.Lanes)
}

// leavesALaterTenureAlone: what a killed process asked for may come when another one has its name.
func leavesALaterTenureAlone(t *testing.T, s *queueSuite) {
	before := s.balance(t, "a", ttl)
	later, err := s.Enter(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.NotEmpty(t, later.Lanes)
	require.NoError(t, s.Leave(t.Context(), "a", before))
	require.Equal(t, int64(1), s.status(t).Relays)
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Equal(t, later.Lanes, renewed.Lanes)
	require.NoError(t, s.Leave(t.Context(), "a", later.Lanes))
	require.Zero(t, s.status(t).Relays)
}

func takesOver(t *testing.T, s *queueSuite) {
	s.balance(t, "a", blink)
	for _, l := range s.balance(t, "b", ttl) {
		require.Equal(t, int64(2), l.Epoch)
	}
	require.Equal(t, int64(1), s.status(t).Relays, "the relay that stopped is forgotten")
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Empty(t, renewed.Lanes)
}

func renewsLate(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", blink)
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Equal(t, owned, renewed.Lanes)
	require.Equal(t, int64(lanes), s.status(t).LanesOwned)
}

func balancesAtOnce(t *testing.T, s *queueSuite) {
	const relays = 6
	var views [relays][]queue.Lane // what each relay was told last; nobody's lease runs out here
	var errs [relays]error
	var wg sync.WaitGroup
	for i := range relays {
		wg.Go(func() {
			for range 20 {
				owned, err := s.Balance(context.WithoutCancel(t.Context()), fmt.Sprint("relay-", i), ttl)
				if db.Conflicted(err) {
					continue // as the relay does, until its next heartbeat
				}
				views[i], errs[i] = owned.Lanes, errors.Join(errs[i], err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs[:]...))
	owner := map[int]int{}
	for i, view := range views {
		for _, l := range view {
			require.NotContains(t, owner, l.Lane)
			owner[l.Lane] = i
		}
	}
	require.Equal(t, int64(relays), s.status(t).Relays)
}

func oneWorksTheOthersWait(t *testing.T, s *queueSuite) {
	if !s.OneWriter {
		t.Skip("relays share")
	}
	require.Len(t, s.balance(t, "a", ttl), lanes)
	require.Empty(t, s.balance(t, "b", ttl))
	owned := s.balance(t, "a", ttl)
	require.Len(t, owned, lanes, "it gives nothing back")
	renewed, err := s.Renew(t.Context(), "b", ttl)
	require.NoError(t, err)
	require.Empty(t, renewed.Lanes)
	require.Zero(t, renewed.Share+renewed.Free)
	require.False(t, renewed.Coming(), "it need not look often")
	require.NoError(t, s.Leave(t.Context(), "a", owned))
	renewed, err = s.Renew(t.Context(), "b", ttl)
	require.NoError(t, err)
	require.True(t, renewed.Unbalanced())
	require.Len(t, s.balance(t, "b", ttl), lanes)
}

func tellsWhatIsFree(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.exec(t, "UPDATE outbox_lanes SET owner = NULL, expires_at = NULL WHERE lane < 10")
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	renewed.Incarnation = queue.Incarnation{}
	require.Equal(t, queue.Ownership{Lanes: owned[10:], Share: lanes, Free: 10, Alone: true}, renewed)
	require.True(t, renewed.Unbalanced())
	s.balance(t, "b", ttl)
	renewed, err = s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Equal(t, s.OneWriter, renewed.Alone)
}

// endsLeasesAhead: the database's clock went back by an hour when the owner had died, so
// that its lease runs for an hour.
func endsLeasesAhead(t *testing.T, s *relaySuite) {
	const short = 300 * time.Millisecond
	s.balance(t, "dead", short)
	s.append(t, message("1", 0))
	s.clockGoesBack(t)
	st := s.status(t)
	require.Equal(t, []int64{0, lanes, 0}, []int64{st.LanesOwned, st.LanesAhead, st.Relays},
		"an owner that may be dead")

	var owned []queue.Lane
	began := time.Now()
	require.Eventually(t, func() bool {
		owned = s.balance(t, "next", short)
		return len(owned) > 0
	}, time.Minute, 20*time.Millisecond)
	require.Greater(t, time.Since(began), short, "a live owner had that long to renew")
	require.Eventually(t, func() bool { return len(s.balance(t, "next", ttl)) == lanes },
		time.Minute, 20*time.Millisecond)
	require.Zero(t, s.status(t).LanesAhead)
}

// keepsLeasesThatAreRenewed: the clock went back, and the owner is well.
func keepsLeasesThatAreRenewed(t *testing.T, s *relaySuite) {
	s.balance(t, "owner", ttl)
	for range 3 {
		s.clockGoesBack(t)
		require.Empty(t, s.balance(t, "other", ttl))
		_, err := s.Renew(t.Context(), "owner", ttl)
		require.NoError(t, err)
	}
	require.Equal(t, int64(lanes), s.status(t).LanesOwned)
}

// clockGoesBack by an hour, as the leases see it.
func (s *relaySuite) clockGoesBack(t *testing.T) {
	t.Helper()
	later := "expires_at + 3600000000"
	if s.DB().Dialect().Name() == dialect.PG {
		later = "expires_at + interval '1 hour'"
	}
	s.exec(t, "UPDATE outbox_lanes SET expires_at = "+later)
	s.exec(t, "UPDATE outbox_relays SET expires_at = "+later)
}

// refusesOtherProtocols: a relay that does not say which protocol it speaks would not
// stand still while the lanes change.
func refusesOtherProtocols(t *testing.T, s *relaySuite) {
	s.balance(t, "old", ttl)
	s.exec(t, "UPDATE outbox_relays SET protocol = 0")
	err := s.SetLanes(t.Context(), 32, func(string) {})
	require.ErrorIs(t, err, queue.ErrOtherProtocol)
	require.ErrorContains(t, err, `relay "old"`)
	require.Equal(t, int64(lanes), s.status(t).Lanes)
	require.NoError(t, s.LeaveAll(t.Context(), "old"))
	require.NoError(t, s.SetLanes(t.Context(), 32, func(string) {}))
}

// seesAllLanes: what waits in lanes without a live owner is nobody's progress.
func seesAllLanes(t *testing.T, s *relaySuite) {
	s.append(t, message("1", 0))
	owned := s.balance(t, "dead", ttl)
	s.clockGoesBack(t)
	twoHours := "- 7200000000"
	if s.DB().Dialect().Name() == dialect.PG {
		twoHours = "- interval '2 hours'"
	}
	s.exec(t, "UPDATE outbox_messages SET created_at = (SELECT min(expires_at) FROM outbox_lanes) "+
		twoHours)
	p, err := s.Progress(t.Context(), "watcher")
	require.NoError(t, err)
	require.Equal(t, []int64{int64(len(owned)), 0, 0}, []int64{p.Lanes, p.Owned, p.Own})
	require.Zero(t, p.OldestAge)
	require.Greater(t, p.OrphanAge, 30*time.Minute)
	_, err = s.Renew(t.Context(), "dead", ttl)
	require.NoError(t, err)
	p, err = s.Progress(t.Context(), "watcher")
	require.NoError(t, err)
	require.Equal(t, int64(lanes), p.Owned)
	require.Zero(t, p.OrphanAge)
}
