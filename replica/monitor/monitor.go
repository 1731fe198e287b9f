// Package monitor shows a replica to Prometheus: what became of its messages, what waits, and how
// far behind it is.
//
//	registry.MustRegister(monitor.New(rep))
//
// It is a package of its own, so that services without Prometheus do not link it.
package monitor

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cqrsync/cqrsync/replica"
)

// Monitor is a prometheus.Collector. Several replicas of one process can be registered: every
// series has the queue.
type Monitor struct {
	replica *replica.Replica

	messages, deadLetters, waiting, lag, readable *prometheus.Desc
	applied, delay                                *prometheus.Desc
	overtaken, changes, masters, neighbours       *prometheus.Desc
	equal                                         *prometheus.Desc

	// guards what follows, which is asked from the database at most once in askEvery
	mu    sync.Mutex
	asked time.Time
	state state
}

type state struct {
	waiting map[string]int64
	lags    map[string]time.Duration
	// masters counts the incarnations that write a model, and databases those behind the queue.
	masters   map[string]int64
	databases int64
	// equal is up to when models were proven equal.
	equal map[string]time.Time
	err   error
}

const (
	askEvery   = 5 * time.Second
	askTimeout = 3 * time.Second
)

// New makes a collector of a replica.
func New(r *replica.Replica) *Monitor {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, prometheus.Labels{"queue": r.Queue()})
	}
	return &Monitor{
		replica: r,
		messages: desc("cqrsync_replica_messages_total", "Messages by what became of them.",
			"outcome"),
		deadLetters: desc("cqrsync_replica_dead_letters_total", "Messages given up, by reason.",
			"reason"),
		applied: desc("cqrsync_replica_model_applied_messages_total",
			"Messages of a model that were applied.", "model"),
		delay: desc("cqrsync_replica_apply_delay_seconds",
			"From a change at the master to its effect here, without what is sent on request; the "+
				"master's clock is compared with the replica's.", "model"),
		waiting: desc("cqrsync_replica_waiting_messages",
			"Messages that wait for another try, of all processes.", "model"),
		lag: desc("cqrsync_replica_lag_seconds",
			"Age of the newest change applied; a master that writes nothing looks like a lag.", "model"),
		overtaken: desc("cqrsync_replica_overtaken_messages_total",
			"Stale messages that are later than what the replica has: the master went back to an "+
				"earlier state."),
		changes: desc("cqrsync_replica_master_changes_total",
			"How often messages of another incarnation of a master began to come."),
		masters: desc("cqrsync_replica_masters",
			"Incarnations of masters that write a model now; more than one is a mistake.", "model"),
		neighbours: desc("cqrsync_replica_databases",
			"Databases behind the queue; with more than one, each gets a part of the messages."),
		equal: desc("cqrsync_replica_equal_through_timestamp_seconds",
			"Up to when the replica was proven to have all that its master committed, by the "+
				"master's clock; missing while it never was.", "model"),
		readable: desc("cqrsync_replica_readable",
			"1 while the state of the replica could be read; without it the series that come from "+
				"its database are missing."),
	}
}

// Describe implements prometheus.Collector.
func (m *Monitor) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		m.messages, m.deadLetters, m.applied, m.delay, m.waiting, m.lag, m.readable,
		m.overtaken, m.changes, m.masters, m.neighbours,
		m.equal,
	} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *Monitor) Collect(out chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	stats := m.replica.Stats()
	for outcome, n := range map[replica.Outcome]int64{
		replica.Applied: stats.Applied - stats.Gaps, replica.AppliedGap: stats.Gaps,
		replica.Duplicate: stats.Duplicates, replica.Stale: stats.Stale,
		replica.Ignored: stats.Ignored, replica.Discarded: stats.Discarded,
		replica.Waiting: stats.Waiting, replica.DeadLettered: stats.DeadLettered,
		replica.Returned: stats.Returned,
	} {
		send(m.messages, prometheus.CounterValue, float64(n), outcome.String())
	}
	for reason, n := range m.replica.DeadLetters() {
		send(m.deadLetters, prometheus.CounterValue, float64(n), reason.String())
	}
	for model, s := range m.replica.ModelStats() {
		send(m.applied, prometheus.CounterValue, float64(s.Applied), model)
		within := make(map[float64]uint64, len(s.Within))
		for bound, n := range s.Within {
			within[bound.Seconds()] = n
		}
		out <- prometheus.MustNewConstHistogram(m.delay, s.Timed, s.Took.Seconds(), within, model)
	}
	send(m.overtaken, prometheus.CounterValue, float64(stats.Overtaken))
	send(m.changes, prometheus.CounterValue, float64(stats.MasterChanges))
	s := m.ask()
	if s.err != nil {
		send(m.readable, prometheus.GaugeValue, 0)
		return
	}
	send(m.readable, prometheus.GaugeValue, 1)
	for model, n := range s.waiting {
		send(m.waiting, prometheus.GaugeValue, float64(n), model)
	}
	for model, lag := range s.lags {
		send(m.lag, prometheus.GaugeValue, lag.Seconds(), model)
	}
	for model, n := range s.masters {
		send(m.masters, prometheus.GaugeValue, float64(n), model)
	}
	for model, through := range s.equal {
		send(m.equal, prometheus.GaugeValue, float64(through.UnixMicro())/1e6, model)
	}
	send(m.neighbours, prometheus.GaugeValue, float64(s.databases))
}

func (m *Monitor) ask() state {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) < askEvery {
		return m.state
	}
	// a collector is given none
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	m.state = state{}
	m.state.waiting, m.state.err = m.replica.Waiting(ctx)
	if m.state.err == nil {
		m.state.lags, m.state.err = m.replica.Lag(ctx)
	}
	if m.state.err == nil {
		m.state.err = m.state.count(ctx, m.replica)
	}
	if m.state.err == nil {
		m.state.equal, m.state.err = m.replica.EqualThrough(ctx)
	}
	m.asked = time.Now()
	return m.state
}

// count asks who writes the models, and who else is behind the queue.
func (s *state) count(ctx context.Context, r *replica.Replica) error {
	masters, err := r.Masters(ctx)
	if err != nil {
		return err
	}
	s.masters = map[string]int64{}
	for _, master := range masters {
		if master.Current || master.Rival {
			s.masters[master.Model]++
		}
	}
	neighbours, err := r.Neighbours(ctx)
	if err != nil {
		return err
	}
	s.databases = 1
	for _, n := range neighbours {
		if n.Active {
			s.databases++
		}
	}
	return nil
}
