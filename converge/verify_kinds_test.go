package converge_test

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/transport"
)

// A replica that was filled is compared at once, though nobody asked and no pass is due.
func TestAFilledReplicaIsProvenEqual(t *testing.T) {
	each(t, func(s *system) {
		s.before(20, 300)
		answerer := s.answerer(converge.AnswererConfig{VerifyEvery: -1})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		s.fills("stats")
		s.patiently("both models have come", func() bool { return s.done("stats", 2) })
		s.patiently("both are equal", func() bool {
			for _, m := range s.known("stats").Models {
				if m.EqualThrough == nil {
					return false
				}
			}
			return true
		})
		require.True(s, s.equal())
	})
}

// Of a model with a filter the rows count that are sent: also where one was hidden past cqrsync.
func TestAFilteredModelIsProvenEqual(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t)),
				outbox.Filter(func(c *Customer) bool { return c.Name != "hidden" }))
			v := verify(s, converge.ReporterConfig{})
			s.save(customers(1, 50)...)
			s.save(&Customer{ID: 60, Name: "hidden"}, &Customer{ID: 3, Name: "hidden"})
			v.equal("customer")
			require.False(s, s.has(&Customer{ID: 3}))
			require.False(s, s.has(&Customer{ID: 60}))

			past := bun.NewDB(s.master.DB, s.master.Dialect()) // nothing captures here
			v.exec(past, "UPDATE customers SET name = 'hidden' WHERE id = 5")
			v.exec(past, "UPDATE customers SET name = 'shown' WHERE id = 60")
			v.exec(s.copies, "DELETE FROM customers WHERE id = 9")
			v.equal("customer")
			want := v.names(s.master)
			for id, name := range want {
				if name == "hidden" {
					delete(want, id)
				}
			}
			require.Equal(s, want, v.names(s.copies))
		})
	}
}

// A step whose question is lost is asked again. It ends where it did, although keys came into it
// meanwhile: the step behind it has been asked by then.
func TestAStepThatGrowsIsComparedWhole(t *testing.T) {
	each(t, func(s *system) {
		var first, grown atomic.Bool
		s.drop = func(out transport.Outgoing) bool {
			holds := func(text string) bool { return bytes.Contains(out.Message.Payload, []byte(text)) }
			return holds(`"kind":"ranges"`) && holds(`"id":"0"`) && first.CompareAndSwap(false, true) ||
				holds("customer 10500") && grown.CompareAndSwap(false, true)
		}
		s.save(customers(1000, 1999)...) // two steps
		v := verify(s, converge.ReporterConfig{})
		s.eventually("the question about the first step is lost", first.Load)
		s.save(customers(10_000, 10_599)...) // their keys are texts that belong into it
		s.eventually("the last of them has come", func() bool { return s.has(&Customer{ID: 10_599}) })
		v.equal("customer")
		require.True(s, grown.Load())
		require.Equal(s, v.names(s.master), v.names(s.copies))
		require.Equal(s, int64(1600), v.of("customer").Last.Keys)
	})
}
