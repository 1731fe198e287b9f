package converge_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/operate/admin"
)

// A replica tells by itself up to when it was proven equal, and what was found since.
func TestAReplicaKnowsThroughWhenItIsEqual(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 50)...)
		v := verify(s, converge.ReporterConfig{Verify: converge.ReportOnly})
		v.equal("customer")
		proven := v.of("customer").Through
		s.eventually("the replica knows", func() bool {
			through, err := v.rep.EqualThrough(s.Context())
			require.NoError(s, err)
			return !through["customer"].Before(proven)
		})

		v.exec(s.copies, "DELETE FROM customers WHERE id = 7")
		tables, err := admin.Open(s.copies, admin.Config{})
		require.NoError(s, err)
		own, err := tables.Replica(s.Context())
		require.NoError(s, err)
		var known admin.ReplicaVerification
		s.eventuallyIn(time.Minute, "it knows that it differs", func() bool {
			status, err := own.Status(s.Context())
			require.NoError(s, err)
			for _, one := range status.Verifications {
				if one.Model == "customer" {
					known = one
				}
			}
			return known.Outcome == admin.VerifiedDiffers
		})
		require.Equal(s, map[string]int64{"missing": 1}, known.Found)
		require.Equal(s, "stats", known.Queue)
		require.Equal(s, v.of("customer").Through, *known.EqualThrough, "that stays")
		require.True(s, known.Ended.After(*known.EqualThrough))
	})
}
