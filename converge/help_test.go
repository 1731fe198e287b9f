package converge_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/operate/admin"
)

// An operator of the master has a replica try again what it gave up. What it still cannot apply stays.
func TestAReplicaTriesItsDeadLettersAgain(t *testing.T) {
	each(t, func(s *system) {
		a := s.answerer(converge.AnswererConfig{})
		s.runs(a.Run)
		s.runReplica("stats")
		s.runs(s.relay(a.KeepQueues).Run)
		s.eventually("it is known", func() bool { return s.known("stats") != nil })
		message := &envelope.Message{
			Signal: envelope.Save, Model: "customer", PK: json.RawMessage("5"), Key: "5", Revision: 3,
			Updated: time.Now(), Data: envelope.Stamp(json.RawMessage(`{"id": 5, "name": "Ada"}`), 3, time.Now()),
		}
		body, err := message.Encode()
		require.NoError(s, err)
		letters := func() (n int64) {
			if k := s.known("stats"); k != nil {
				for _, m := range k.Models {
					n += m.DeadLetters
				}
			}
			return n
		}
		s.bury("stats", string(body), `{"nobody": "knows what"}`)
		s.eventually("both are reported", func() bool { return letters() == 2 })
		require.NoError(s, a.RetryDeadLetters(s.Context(), "stats", "customer"))
		s.eventually("the one is applied, and gone", func() bool { return letters() == 1 })
		require.True(s, s.has(&Customer{ID: 5}))
		require.ErrorContains(s, a.RetryDeadLetters(s.Context(), "stats", "nothing"), "is not one of this master")
	})
}

// An operator of the master has a replica delete what it gave up, as far as it was reported: what
// came since stays.
func TestAReplicaDeletesItsDeadLettersUpToATime(t *testing.T) {
	each(t, func(s *system) {
		a := s.answerer(converge.AnswererConfig{})
		s.runs(a.Run)
		s.runReplica("stats")
		s.runs(s.relay(a.KeepQueues).Run)
		stuck := func() []admin.ReplicaStuck {
			if k := s.known("stats"); k != nil {
				for _, m := range k.Models {
					if m.Model == "customer" {
						return m.Stuck
					}
				}
			}
			return nil
		}
		s.bury("stats", `{"a":1}`, `{"a":2}`)
		var seen []admin.ReplicaStuck
		s.eventually("both are reported", func() bool {
			seen = stuck()
			return len(seen) == 1 && seen[0].Count == 2
		})
		before := seen[0].Last.Add(time.Microsecond)
		s.eventually("the clock goes on", func() bool {
			now, err := s.admin.Now(s.Context())
			return err == nil && now.After(before.Add(2*time.Millisecond))
		})
		s.bury("stats", `{"a":3}`)
		s.eventually("the third is reported", func() bool { got := stuck(); return len(got) == 1 && got[0].Count == 3 })
		require.ErrorContains(s, a.PurgeDeadLetters(s.Context(), "stats", "customer", time.Time{}), "no time up to which")
		require.ErrorContains(s, a.PurgeDeadLetters(s.Context(), "stats", "nothing", before), "is not one of this master")
		require.NoError(s, a.PurgeDeadLetters(s.Context(), "stats", "customer", before))
		s.eventually("one is left", func() bool { got := stuck(); return len(got) == 1 && got[0].Count == 1 })
		var body string
		require.NoError(s, s.copies.NewRaw("SELECT body FROM replica_dead_letters").Scan(s.Context(), &body))
		require.JSONEq(s, `{"a":3}`, body)
	})
}

// bury puts dead letters of customers there.
func (s *system) bury(queue string, bodies ...string) {
	s.Helper()
	for _, body := range bodies {
		_, err := s.copies.ExecContext(s.Context(), "INSERT INTO replica_dead_letters (queue, model, body, "+
			"metadata, error) VALUES (?, 'customer', ?, '{}', 'no room')", queue, body)
		require.NoError(s, err)
	}
}

// An operator sends a key again to one replica, which lost it behind everybody's back.
func TestAKeyIsSentAgainToOneReplica(t *testing.T) {
	each(t, func(s *system) {
		a := s.answerer(converge.AnswererConfig{})
		s.runs(a.Run)
		s.runReplica("stats")
		s.runs(s.relay(a.KeepQueues).Run)
		s.save(&Customer{ID: 1, Name: "Ada"})
		s.eventually("it is there", func() bool { return s.has(&Customer{ID: 1}) })
		for _, table := range []string{"customers", "replica_revisions"} {
			_, err := s.copies.ExecContext(s.Context(), "DELETE FROM "+table)
			require.NoError(s, err)
		}
		n, err := a.SendStates(s.Context(), "stats", "customer", []string{"1", "99"})
		require.NoError(s, err)
		require.Equal(s, 1, n, "the master neither has nor remembers 99")
		s.eventually("it is there again", func() bool { return s.has(&Customer{ID: 1}) })
		_, err = a.SendStates(s.Context(), "stats", "nothing", []string{"1"})
		require.ErrorContains(s, err, "is not one of this master")
	})
}
