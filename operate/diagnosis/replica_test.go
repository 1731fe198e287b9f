package diagnosis_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// A replica says of itself what its database knows, in the words of its master.
func TestAReplicaSaysHowItIs(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		tables, err := admin.Open(bunDB, admin.Config{})
		require.NoError(t, err)
		_, err = tables.Migrate(t.Context(), admin.ReplicaSide)
		require.NoError(t, err)
		own, err := db.New(bunDB, db.Names{})
		require.NoError(t, err)
		room := applied.New(own)
		replica, err := tables.Replica(t.Context())
		require.NoError(t, err)
		read := func() diagnosis.ReplicaState {
			s, err := diagnosis.OfReplica(t.Context(), replica, diagnosis.Config{})
			require.NoError(t, err)
			return s
		}
		require.Equal(t, "Everything that came is applied. Not compared with its master yet.",
			read().Sentence)
		now, err := room.Now(t.Context())
		require.NoError(t, err)
		verified := func(model, outcome string, through time.Time, found map[string]int64) {
			require.NoError(t, room.NoteVerification(t.Context(), applied.Verification{
				Queue: "stats", Model: model, Outcome: outcome, Through: through, Ended: now, Found: found,
			}))
		}
		verified("order", admin.VerifiedEqual, now.Add(-time.Second), nil)
		verified("line", admin.VerifiedEqual, now, nil)
		s := read()
		require.Empty(t, s.Troubles)
		require.Regexp(t, `^Everything that came is applied. Equal to its master as of \d\d:\d\d:\d\d`,
			s.Sentence)

		for _, key := range []string{"17", "18"} {
			require.NoError(t, room.AddWaiting(t.Context(), bunDB, []applied.Waiting{{
				Applied: applied.Applied{Key: applied.Key{Model: "order", Key: key}, Revision: 1},
				Body:    []byte("{}"), Error: "no shop " + key, Since: now.Add(-12 * time.Minute), In: time.Hour,
			}}))
		}
		require.NoError(t, room.AddDeadLetter(t.Context(), bunDB,
			applied.DeadLetter{Queue: "stats", Body: []byte("?"), Error: "unreadable"}))
		verified("line", admin.VerifiedDiffers, time.Time{}, map[string]int64{"missing": 2})
		s = read()
		require.Equal(t, []diagnosis.Kind{
			diagnosis.ReplicaDeadLetters, diagnosis.ReplicaWaits, diagnosis.ReplicaDiffers,
		}, []diagnosis.Kind{s.Troubles[0].Kind, s.Troubles[1].Kind, s.Troubles[2].Kind})
		require.Contains(t, s.Troubles[0].Sentence(), "The replica stats gave up an unknown model")
		require.Contains(t, s.Troubles[1].Sentence(),
			"2 messages wait at the replica stats, order 17 for 12 min: no shop 1")
		require.Contains(t, s.Troubles[2].Sentence(), "The replica stats is not as its master in line")
		require.Contains(t, s.Sentence, "And 2 other troubles.")
	})
}
