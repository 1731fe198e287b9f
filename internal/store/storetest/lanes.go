package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/store"
)

func ownsEverything(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	require.Len(t, owned, lanes)
	for i, l := range owned {
		require.Equal(t, store.Lane{Lane: i, Epoch: 1, Nonce: owned[0].Nonce}, l)
	}
	require.Equal(t, owned, s.balance(t, "a", ttl), "balancing again changes nothing")
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Equal(t, store.Ownership{Lanes: owned, Share: lanes, Alone: true}, renewed)
	require.False(t, renewed.Unbalanced())
}

func sharesFairly(t *testing.T, s *relaySuite) {
	if s.oneRelay() {
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
}

func handsBack(t *testing.T, s *relaySuite) {
	s.balance(t, "a", ttl)
	require.Empty(t, s.balance(t, "b", ttl))
	require.NoError(t, s.Leave(t.Context(), "a"))
	require.Equal(t, int64(1), s.status(t).Relays)
	require.Len(t, s.balance(t, "b", ttl), lanes)
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Empty(t, renewed.Lanes)
}

func takesOver(t *testing.T, s *relaySuite) {
	s.balance(t, "a", blink)
	for _, l := range s.balance(t, "b", ttl) {
		require.Equal(t, int64(2), l.Epoch)
	}
	require.Equal(t, int64(1), s.status(t).Relays, "the relay that stopped is forgotten")
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Empty(t, renewed.Lanes)
}

func renewsLate(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", blink)
	renewed, err := s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Equal(t, owned, renewed.Lanes)
	require.Equal(t, int64(lanes), s.status(t).LanesOwned)
}

func balancesAtOnce(t *testing.T, s *relaySuite) {
	const relays = 6
	var views [relays][]store.Lane // what each relay was told last; nobody's lease runs out here
	var errs [relays]error
	var wg sync.WaitGroup
	for i := range relays {
		wg.Go(func() {
			for range 20 {
				owned, err := s.Balance(context.WithoutCancel(t.Context()), fmt.Sprint("relay-", i), ttl)
				if store.Conflicted(err) {
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

// oneRelay says that only one relay works at a time: the database has one writer.
func (s *relaySuite) oneRelay() bool { return s.DB().Dialect().Name() == dialect.SQLite }

func oneWorksTheOthersWait(t *testing.T, s *relaySuite) {
	if !s.oneRelay() {
		t.Skip("relays share")
	}
	require.Len(t, s.balance(t, "a", ttl), lanes)
	require.Empty(t, s.balance(t, "b", ttl))
	require.Len(t, s.balance(t, "a", ttl), lanes, "it gives nothing back")
	renewed, err := s.Renew(t.Context(), "b", ttl)
	require.NoError(t, err)
	require.Equal(t, store.Ownership{}, renewed)
	require.NoError(t, s.Leave(t.Context(), "a"))
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
	require.Equal(t, store.Ownership{Lanes: owned[10:], Share: lanes, Free: 10, Alone: true}, renewed)
	require.True(t, renewed.Unbalanced())
	s.balance(t, "b", ttl)
	renewed, err = s.Renew(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Equal(t, s.oneRelay(), renewed.Alone)
}
