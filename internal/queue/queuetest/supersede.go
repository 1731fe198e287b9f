package queuetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// supersedes: what was replaced in memory is gone before what replaced it leaves, which then says
// so.
func supersedes(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	for key := range 300 { // more than one CASE holds
		s.append(t, chain(fmt.Sprint("k", key), 0, 2)...)
	}
	s.append(t, chain("old", 5, 7)...)
	s.append(t, kept("other", 0))
	var list []queue.Superseding
	older := map[string][]*queue.Claimed{}
	for _, m := range s.claim(t) {
		switch {
		case m.Key == "other":
		case m.Revision == 2 || m.Revision == 7:
			m.After = older[m.Key][0].After
			list = append(list, queue.Superseding{Claimed: m, Older: older[m.Key]})
		default:
			older[m.Key] = append(older[m.Key], m)
		}
	}
	fates := s.supersede(t, "a", owned, list)
	require.Equal(t, slices.Repeat([]queue.Superseded{queue.Gone}, 301), fates)
	claimed := s.claim(t)
	require.Len(t, claimed, 302)
	require.Nil(t, only(claimed, "k7", 2)[0].After)
	require.Equal(t, int64(4), *only(claimed, "old", 7)[0].After)
	require.NotEmpty(t, only(claimed, "other", 0))

	require.Equal(t, fates, s.supersede(t, "a", owned, list),
		"once more, as after an error that says nothing")
	sent := make([]*queue.Claimed, len(list))
	for i, m := range list {
		sent[i] = m.Claimed
	}
	s.finish(t, "a", owned, queue.Outcome{Sent: sent})
	require.Equal(t, []string{"other/0"}, names(s.claim(t)), "they are found where they are now")
}

func (s *queueSuite) supersede(
	t *testing.T, relay string, lanes []queue.Lane, list []queue.Superseding,
) []queue.Superseded {
	t.Helper()
	fates, err := s.Supersede(t.Context(), relay, lanes, list)
	require.NoError(t, err)
	require.Len(t, fates, len(list))
	return fates
}

// supersedesFenced: who does not own the lanes removes nothing, and is told so.
func supersedesFenced(t *testing.T, s *queueSuite) {
	old := s.balance(t, "a", blink)
	s.append(t, chain("1", 0, 2)...)
	claimed := s.claim(t)
	current := s.balance(t, "b", ttl)
	list := []queue.Superseding{{Claimed: claimed[2], Older: claimed[:2]}}
	for relay, lanes := range map[string][]queue.Lane{"a": old, "b": old, "c": nil} {
		require.Equal(t, []queue.Superseded{queue.Missing}, s.supersede(t, relay, lanes, list))
	}
	require.Len(t, s.claim(t), 3)
	require.Equal(t, []queue.Superseded{queue.Gone}, s.supersede(t, "b", current, list))
	require.Equal(t, []string{"1/2"}, names(s.claim(t)))
}

// supersedesWhatIsHeld: what others hold locked keeps its own key back, and is not waited for.
func supersedesWhatIsHeld(t *testing.T, s *queueSuite) {
	if s.OneWriter {
		t.Skip("on SQLite a write transaction excludes all others")
	}
	owned := s.balance(t, "a", ttl)
	s.append(t, chain("1", 0, 2)...)
	s.append(t, chain("2", 0, 2)...)
	s.append(t, chain("3", 0, 2)...)
	claimed := s.claim(t)
	var list []queue.Superseding
	for _, key := range []string{"1", "2", "3"} {
		list = append(list, queue.Superseding{
			Claimed: only(claimed, key, 2)[0],
			Older:   append(only(claimed, key, 0), only(claimed, key, 1)...),
		})
	}
	release := s.Hold(t, list[1].Older[1].ID, list[2].ID)
	require.Equal(t, []queue.Superseded{queue.Gone, queue.Standing, queue.Missing},
		s.supersede(t, "a", owned, list))
	require.Len(t, s.claim(t), 7, "what is held says that it follows the one before it")
	release()
	require.Len(t, only(s.claim(t), "3", 0), 1, "nothing is removed without its successor")
	require.Equal(t, slices.Repeat([]queue.Superseded{queue.Gone}, 3),
		s.supersede(t, "a", owned, list))
	require.ElementsMatch(t, []string{"1/2", "2/2", "3/2"}, names(s.claim(t)))
}

// supersedesOnlyWhatWasRead: after a restore other messages may have these identities, or none the
// successor's.
func supersedesOnlyWhatWasRead(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, chain("1", 0, 1)...)
	s.append(t, chain("2", 0, 1)...)
	claimed := s.claim(t)
	old, next := only(claimed, "1", 0)[0], only(claimed, "1", 1)[0]
	list := []queue.Superseding{{Claimed: next, Older: []*queue.Claimed{old}}}
	change := func(column, by string, id int64) {
		_, err := s.DB().ExecContext(t.Context(), `UPDATE outbox_messages SET ?0 = ?0 + ?1 WHERE id = ?2`,
			bun.Ident(column), bun.Safe(by), id)
		require.NoError(t, err)
	}
	second := "1000000" // in microseconds
	if s.DB().Dialect().Name() == dialect.PG {
		second = "interval '1 second'"
	}
	for column, by := range map[string]string{"revision": "9", "created_at": second} {
		change(column, by, next.ID)
		require.Equal(t, []queue.Superseded{queue.Missing}, s.supersede(t, "a", owned, list), column)
		change(column, "-"+by, next.ID)
		change(column, by, old.ID)
		require.Equal(t, []queue.Superseded{queue.Missing}, s.supersede(t, "a", owned, list), column)
		change(column, "-"+by, old.ID)
		require.Len(t, s.claim(t), 4)
	}
	require.Equal(t, []queue.Superseded{queue.Gone}, s.supersede(t, "a", owned, list))
}
