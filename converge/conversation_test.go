package converge_test

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
)

func TestAReplicaIsKnownAndItsLagIsTrue(t *testing.T) {
	each(t, func(s *system) {
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		_, reporter := s.runReplica("stats")
		s.save(&Customer{ID: 1, Name: "a"})

		s.eventually("the replica is known, with a lag", func() bool {
			known := s.known("stats")
			return known != nil && known.LagSeconds != nil && len(known.Models) == 2
		})
		s.eventually("an idle replica is not late", func() bool { return *s.known("stats").LagSeconds < 0.5 })
		s.eventually("the report says what was applied", func() bool {
			for _, m := range s.known("stats").Models {
				if m.Model == "customer" && m.Newest != nil {
					return true
				}
			}
			return false
		})
		known := s.known("stats")
		require.Equal(t, 1, known.Instances)
		require.False(t, known.Silent)
		require.NotNil(t, known.Through)
		require.Positive(t, reporter.Reported().Reports)
		require.Empty(t, reporter.Reported().Asked, "nothing is lacking")
	})
}

func TestAReplicaThatIsGoneIsSilentAndLate(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	answerer := s.answerer(converge.AnswererConfig{})
	s.runs(answerer.Run)
	s.runs(s.relay(answerer.KeepQueues).Run)
	rep := s.replica("stats")
	reporter := s.reporter(rep)
	stopReplica := s.runs(func(ctx context.Context) error { return rep.Run(ctx, s.broker.Subscriber("stats")) })
	stopReporter := s.runs(reporter.Run)
	s.eventually("it is known, with a lag", func() bool {
		known := s.known("stats")
		return known != nil && known.LagSeconds != nil
	})
	stopReplica()
	s.eventually("it reports on, and its lag grows", func() bool {
		known := s.known("stats")
		return *known.LagSeconds > 0.6 && !known.Silent
	})
	s.says("a replica's lag grows", "--late", "500ms")
	stopReporter()
	s.eventually("it is silent", func() bool { return s.known("stats").Silent })
	s.says("a replica is stopped")
	s.says("a replica or model is no longer followed, or has another name")

	forgotten, err := s.admin.ForgetReplica(t.Context(), "stats")
	require.NoError(t, err)
	require.True(t, forgotten)
	require.Nil(t, s.known("stats"))
	forgotten, err = s.admin.ForgetReplica(t.Context(), "stats")
	require.NoError(t, err)
	require.False(t, forgotten)
}

func TestNothingIsPublishedBeforeTheQueuesAreThere(t *testing.T) {
	each(t, func(s *system) {
		s.save(&Customer{ID: 1, Name: "a"})
		answerer := s.answerer(converge.AnswererConfig{Queues: map[string][]string{"stats": nil}})
		s.runs(s.relay(answerer.KeepQueues).Run)
		s.eventually("the outbox is empty", func() bool {
			st, err := s.admin.Status(s.Context())
			require.NoError(s, err)
			return st.Unsent == 0
		})
		s.runReplica("stats") // which comes later
		s.eventually("the replica has what was published before it came", func() bool {
			return s.has(&Customer{ID: 1})
		})
	})
}

func TestAMissingParentIsAskedFor(t *testing.T) {
	each(t, func(s *system) {
		var lost atomic.Bool
		s.drop = func(out transport.Outgoing) bool {
			return out.Topic == "customer" && lost.CompareAndSwap(false, true)
		}
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		_, reporter := s.runReplica("stats")
		s.save(&Customer{ID: 1, Name: "a"})
		s.eventually("the customer is lost", lost.Load)
		s.save(&Order{ID: 1, CustomerID: 1, Status: "new"})
		s.eventually("the order came with its customer", func() bool { return s.has(&OrderCopy{ID: 1}) })
		require.Equal(s, map[string]int64{"missing_parent": 1}, reporter.Reported().Asked)
		s.eventually("the master counts it", func() bool { return answerer.Answered().Sent == 1 })
	})
}

func TestAGapIsAskedFor(t *testing.T) {
	each(t, func(s *system) {
		var lose atomic.Bool
		s.drop = func(out transport.Outgoing) bool {
			return out.Topic == "customer" && lose.CompareAndSwap(true, false)
		}
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		rep, reporter := s.runReplica("stats")
		s.save(&Customer{ID: 1, Name: "a"})
		s.eventually("it came", func() bool { return s.has(&Customer{ID: 1}) })
		lose.Store(true)
		s.save(&Customer{ID: 1, Name: "b"})
		s.eventually("one is lost", func() bool { return !lose.Load() })
		s.save(&Customer{ID: 1, Name: "c"})
		s.eventually("it is asked for", func() bool { return reporter.Reported().Asked["gap"] == 1 })
		s.eventually("the state came again", func() bool { return answerer.Answered().Sent == 1 })
		require.Equal(s, int64(1), rep.Stats().Gaps)
	})
}

func TestWhoHasNotReportedHearsNothing(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	silent := s.broker.Subscriber("django")
	defer silent.Close()
	messages, err := silent.SubscribeWindow(t.Context(), "customer", 100)
	require.NoError(t, err)
	answerer := s.answerer(converge.AnswererConfig{})
	s.runs(answerer.Run)
	s.runs(s.relay(answerer.KeepQueues).Run)
	s.runReplica("stats")
	s.eventually("a heartbeat came back", func() bool {
		known := s.known("stats")
		return known != nil && known.LagSeconds != nil
	})
	s.save(&Customer{ID: 1, Name: "a"})
	m := <-messages
	require.Empty(t, m.Metadata.Get(transport.ControlKey))
	require.Contains(t, string(m.Payload), `"cqrs_id":"customer"`)
	m.Ack()
	s.eventually("several heartbeats more", func() bool { return *s.known("stats").LagSeconds < 1 })
	select {
	case m := <-messages:
		t.Fatalf("a further message came: %s", m.Payload)
	default:
	}
}

func TestAMasterThatDoesNotAnswerCostsNothing(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	s.runs(s.relay(nil).Run)
	_, reporter := s.runReplica("stats")
	s.save(&Customer{ID: 1, Name: "a"})
	s.eventually("it is applied", func() bool { return s.has(&Customer{ID: 1}) })
	require.Zero(t, reporter.Reported().Reports)
}

func TestNonsenseIsIgnoredAndCounted(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	answerer := s.answerer(converge.AnswererConfig{})
	s.runs(answerer.Run)
	publisher := s.broker.Publisher()
	publisher.RequireQueue = true
	say := func(topic, body string) error {
		return publisher.Publish(topic, message.NewMessage("1", []byte(body)))
	}
	s.eventually("the master listens", func() bool {
		return say(transport.MasterTopic("order"), `{"v":1,"kind":"dance","queue":"q","instance":"i"}`) == nil
	})
	wrong := []string{
		``, `[]`, `{`, `{"v":99,"kind":"report","queue":"q","instance":"i"}`,
		`{"v":1,"kind":"report","queue":"","instance":"i"}`,
		`{"v":1,"kind":"report","queue":"q","instance":"i","pace":0,"models":[{"id":"order"}]}`,
		`{"v":1,"kind":"report","queue":"q","instance":"i","pace":1e300,"models":[{"id":"order"}]}`,
		`{"v":1,"kind":"report","queue":"q","instance":"i","pace":1,"models":[]}`,
		`{"v":1,"kind":"report","queue":"q","instance":"i","pace":1,"models":[{"id":"secret"}]}`,
		`{"v":1,"kind":"report","queue":"q\u0000","instance":"i","pace":1,"models":[{"id":"order"}]}`,
		`{"v":1,"kind":"resync","queue":"q","instance":"i","model":"secret","keys":[{"key":"1"}]}`,
	}
	for _, body := range wrong {
		require.NoError(t, say(transport.MasterTopic("order"), body))
	}
	s.eventually("all are counted", func() bool { return answerer.Answered().Ignored == int64(len(wrong)+1) })
	require.Empty(t, s.known("q"))
	require.Nil(t, s.known("q"))
}

func TestAFloodOfRequestsIsLimited(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	s.save(&Customer{ID: 1, Name: "a"})
	answerer := s.answerer(converge.AnswererConfig{KeysPerMinute: 3})
	s.runs(answerer.Run)
	publisher := s.broker.Publisher()
	publisher.RequireQueue = true
	body, err := json.Marshal(map[string]any{
		"v": 1, "kind": "resync", "queue": "q", "instance": "i", "model": "customer", "cause": "gap",
		"keys": []map[string]any{{"key": "1", "above": -1}},
	})
	require.NoError(t, err)
	for range 10 {
		s.eventually("the master listens", func() bool {
			return publisher.Publish(transport.MasterTopic("customer"), message.NewMessage("1", body)) == nil
		})
	}
	s.eventually("all are counted", func() bool { return answerer.Answered().Requests >= 10 })
	s.eventually("three are answered", func() bool {
		got := answerer.Answered()
		return got.Sent == 3 && got.Limited == got.Requests-3
	})
}

func TestStatesThatAreSentAgainAreThoseOfTheMaster(t *testing.T) {
	each(t, func(s *system) {
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.save(&Customer{ID: 1, Name: "a"}, &Customer{ID: 2, Name: "b"})
		require.NoError(s, s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewDelete().Model(&Customer{ID: 2}).WherePK().Exec(ctx)
			return err
		}))
		queue := s.broker.Subscriber("q")
		defer queue.Close()
		messages, err := queue.SubscribeWindow(s.Context(), "customer", 10)
		require.NoError(s, err)
		publisher := s.broker.Publisher()
		publisher.RequireQueue = true
		body := `{"v":1,"kind":"resync","queue":"q","instance":"i","model":"customer","cause":"gap","keys":[
			{"key":"1","above":-1},{"key":"2","above":-1},{"key":"3","above":-1},{"key":"no key","above":-1},
			{"key":"1","above":7}]}`
		s.eventually("the master listens", func() bool {
			return publisher.Publish(transport.MasterTopic("customer"), message.NewMessage("1", []byte(body))) == nil
		})
		var got []string
		for range 2 {
			m := <-messages
			var sent struct {
				Signal string          `json:"signal_type"`
				PK     json.RawMessage `json:"instance_pk"`
				Data   map[string]any  `json:"instance_data"`
			}
			require.NoError(s, json.Unmarshal(m.Payload, &sent))
			got = append(got, sent.Signal+" "+string(sent.PK))
			require.NotEmpty(s, m.Metadata.Get("cqrs_incarnation"))
			require.Equal(s, "q", m.Metadata.Get("cqrs_queue"))
			m.Ack()
		}
		require.Equal(s, []string{"SYNC 1", "DELETE 2"}, got)
	})
}

// A message of control waits for what came before it, and for nothing that comes behind it.
func TestAStuckMessageKeepsTheHeartbeatAndNothingElse(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	answerer := s.answerer(converge.AnswererConfig{})
	s.runs(answerer.Run)
	s.runs(s.relay(answerer.KeepQueues).Run)
	rep, err := replica.New(s.copies, replica.Config{Queue: "stats", Logger: quiet, Workers: 2})
	require.NoError(t, err)
	release := make(chan struct{})
	var handled atomic.Int64
	require.NoError(t, replica.HandleFunc(rep, "customer", func(ctx context.Context, e replica.Event[Customer]) error {
		if e.Data.Name == "stuck" {
			<-release
		}
		handled.Add(1)
		return nil
	}))
	require.NoError(t, rep.Migrate(t.Context()))
	reporter := s.reporter(rep)
	s.runs(func(ctx context.Context) error { return rep.Run(ctx, s.broker.Subscriber("stats")) })
	s.runs(reporter.Run)
	s.eventually("a heartbeat came back", func() bool {
		known := s.known("stats")
		return known != nil && known.LagSeconds != nil
	})
	s.save(&Customer{ID: 1, Name: "stuck"})
	s.eventually("the lag grows", func() bool { return *s.known("stats").LagSeconds > 0.8 })
	s.save(&Customer{ID: 2, Name: "free"})
	s.eventually("others go on", func() bool { return handled.Load() == 1 })
	close(release)
	s.eventually("it is over", func() bool {
		return handled.Load() == 2 && *s.known("stats").LagSeconds < 0.5
	})
}

// What has expired on its way is asked for: the state is what it was, and the master vouches for it.
func TestAnExpiredStateIsAskedFor(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t)), outbox.ExpireAfter(time.Second))
			answerer := s.answerer(converge.AnswererConfig{Queues: map[string][]string{"stats": nil}})
			s.runs(answerer.Run)
			s.runs(s.relay(answerer.KeepQueues).Run)
			s.save(&Customer{ID: 1, Name: "a"})
			s.eventually("it waits in the queue", func() bool {
				st, err := s.admin.Status(s.Context())
				require.NoError(s, err)
				return st.Unsent == 0
			})
			// By the master's clock the replica knows how late it is: from a later message.
			expired := time.Now().Add(1100 * time.Millisecond)
			s.eventually("it has expired", func() bool { return time.Now().After(expired) })
			s.save(&Customer{ID: 2, Name: "b"})
			rep, reporter := s.runReplica("stats")
			s.eventually("both are there", func() bool {
				return s.has(&Customer{ID: 1}) && s.has(&Customer{ID: 2})
			})
			if rep.DeadLetters()[replica.Expired] > 0 {
				require.Equal(s, map[string]int64{"dead_letter": 1}, reporter.Reported().Asked)
			}
		})
	}
}
