package converge_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/operate/admin"
)

func (s *system) key(model, key string, wait time.Duration) *admin.Key {
	s.Helper()
	k, err := s.admin.Key(s.Context(), model, key, wait)
	require.NoError(s, err)
	return k
}

// One key is looked for on all sides: what the master has, what is unsent, what replicas say.
func TestAKeyIsFoundOnAllSides(t *testing.T) {
	each(t, func(s *system) {
		s.save(&Customer{ID: 1, Name: "Ada"}, &Order{ID: 17, CustomerID: 1, Status: "new"})
		k := s.key("order", "17", time.Millisecond)
		require.True(s, k.Known)
		require.Len(s, k.Unsent, 1)
		require.Equal(s, "SAVE", k.Unsent[0].Signal)
		require.Empty(s, k.Replicas)

		a := s.answerer(converge.AnswererConfig{})
		s.runs(a.Run)
		s.runReplica("stats")
		s.runs(s.relay(a.KeepQueues).Run)
		s.eventually("both are there", func() bool { return s.has(&OrderCopy{ID: 17}) })
		s.eventually("the replica has reported, and nothing is on its way", func() bool {
			k = s.key("order", "17", 0)
			return len(k.Replicas) == 1 && len(k.Unsent) == 0
		})

		k = s.key("order", "17", time.Minute)
		require.Empty(s, k.Unsent)
		require.Len(s, k.Replicas, 1)
		at := k.Replicas[0]
		require.Equal(s, "stats", at.Queue)
		require.NotNil(s, at.Answered, at.Silence)
		require.True(s, at.Known)
		require.Equal(s, k.Revision, at.Revision)
		require.NotNil(s, at.Applied)

		k = s.key("order", "18", time.Minute)
		require.False(s, k.Known)
		require.False(s, k.Replicas[0].Known)
		require.NotNil(s, k.Replicas[0].Answered)
	})
}

// What a replica did not apply is said, with its reason, in its reports and of the key.
func TestAKeyThatWaitsAtAReplicaSaysWhy(t *testing.T) {
	each(t, func(s *system) {
		a := s.answerer(converge.AnswererConfig{})
		s.runs(a.Run)
		s.runReplica("stats")
		s.runs(s.relay(a.KeepQueues).Run)
		s.save(&Order{ID: 17, CustomerID: 99, Status: "new"}) // nobody has that customer
		stuck := func() (all []admin.ReplicaStuck) {
			if k := s.known("stats"); k != nil {
				for _, m := range k.Models {
					all = append(all, m.Stuck...)
				}
			}
			return all
		}
		var said []admin.ReplicaStuck
		s.eventually("it waits, and is reported", func() bool {
			said = stuck() // each report says it anew
			return len(said) == 1
		})
		require.Equal(s, []string{"17"}, said[0].Keys)
		require.NotEmpty(s, said[0].Error)
		at := s.key("order", "17", time.Minute).Replicas[0]
		require.False(s, at.Known)
		require.Len(s, at.Stuck, 1, at.Silence)
		require.False(s, at.Stuck[0].Dead)
		require.NotEmpty(s, at.Stuck[0].Error)
	})
}

// Who cannot answer is named, with why.
func TestAReplicaThatDoesNotAnswerSaysWhy(t *testing.T) {
	each(t, func(s *system) {
		a := s.answerer(converge.AnswererConfig{})
		stop := s.runs(a.Run)
		_, _ = s.runReplica("stats")
		s.eventually("it is known, with its models", func() bool {
			return len(s.key("order", "17", 0).Replicas) == 1
		})
		require.Equal(s, "it was not asked", s.key("order", "17", 0).Replicas[0].Silence)
		stop()
		at := s.key("order", "17", time.Millisecond).Replicas[0]
		require.Nil(s, at.Answered)
		require.NotEmpty(s, at.Silence)
	})
}
