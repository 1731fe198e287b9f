package monitor

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// histograms are those of what is handed to the publisher.
type histograms struct{ sizes, times prometheus.Histogram }

func newHistograms() histograms {
	return histograms{
		sizes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cqrsync_relay_batch_messages", Help: "Messages handed to the publisher at once.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000},
		}),
		times: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cqrsync_relay_batch_seconds", Help: "Time until the fate of every message of a " +
				"batch was known.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}),
	}
}

func (h histograms) observe(messages int, took time.Duration) {
	h.sizes.Observe(float64(messages))
	h.times.Observe(took.Seconds())
}

// series is one value that is read when somebody asks.
type series struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) series {
	return series{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) series {
	return series{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// Names are never changed, only added.
var (
	unsent = gauge("cqrsync_outbox_unsent_messages",
		"Messages that no broker has confirmed, of all relays; beyond 100,000 an estimate.")
	oldest = gauge("cqrsync_outbox_oldest_age_seconds",
		"How long the oldest of them has waited.")
	parked = gauge("cqrsync_outbox_parked_keys",
		"Keys whose oldest message failed and waits for another attempt; beyond 100,000 an "+
			"estimate.")
	deadLetters = gauge("cqrsync_outbox_dead_letters",
		"Messages that were given up: relay dead-letters list; beyond 100,000 an estimate.")
	relays     = gauge("cqrsync_outbox_relays", "Live relays.")
	allLanes   = gauge("cqrsync_outbox_lanes", "Lanes.")
	ownedLanes = gauge("cqrsync_outbox_lanes_owned", "Lanes with a live owner.")
	readable   = gauge("cqrsync_outbox_readable",
		"1 while the state of the outbox could be read; without it the other cqrsync_outbox "+
			"series are missing.")

	published = counter("cqrsync_relay_published_messages_total",
		"Messages that the broker confirmed, as the relay counts them.")
	compacted = counter("cqrsync_relay_compacted_messages_total",
		"Messages that were dropped because a newer one of their key replaces them.")
	batches = counter("cqrsync_relay_batches_total", "Batches handed to the publisher.")
	retries = counter("cqrsync_relay_retries_total",
		"How often a message failed for a reason of its own and its key was parked for another "+
			"attempt.")
	buried         = counter("cqrsync_relay_dead_letters_total", "Messages given up.")
	modelPublished = counter("cqrsync_relay_model_published_messages_total",
		"Messages of a model that the broker confirmed.", "model")
	confirmDelay = series{prometheus.NewDesc("cqrsync_relay_confirm_delay_seconds",
		"From a commit to the broker's confirm, without what is sent on request; the clock of "+
			"the database is compared with the relay's.", []string{"model"}, nil),
		prometheus.UntypedValue}
	lanes      = gauge("cqrsync_relay_lanes", "Lanes this relay owns.")
	leasesLost = counter("cqrsync_relay_leases_lost_total",
		"How often lanes were lost otherwise than by handing them over.")
	breaker = gauge("cqrsync_relay_breaker_open", "1 while the relay waits for what is away.",
		"of")

	confirmed = counter("cqrsync_relay_confirmed_messages_total",
		"Messages that the broker confirmed, repeats included.")
	returned = counter("cqrsync_relay_returned_messages_total",
		"Messages that came back because no queue takes them.")
	nacked = counter("cqrsync_relay_nacked_messages_total",
		"Messages that the broker read and did not keep.")
	refused = counter("cqrsync_relay_refused_messages_total",
		"Messages that failed for any other reason of their own.")
	unknown = counter("cqrsync_relay_unavailable_messages_total",
		"Messages whose fate is unknown because the broker was away: they are sent again.")
	unroutable = counter("cqrsync_relay_unroutable_messages_total",
		"Messages that no queue took, where routes are not required.", "topic")
	ready = gauge("cqrsync_relay_ready",
		"1 while the relay makes progress: what /readyz says.")
)

// Describe implements prometheus.Collector.
func (m *Monitor) Describe(out chan<- *prometheus.Desc) {
	for _, s := range []series{
		unsent, oldest, parked, deadLetters, relays, allLanes, ownedLanes, readable,
		published, compacted, modelPublished, confirmDelay, batches, retries, buried, lanes,
		leasesLost, breaker,
		confirmed, returned, nacked, refused, unknown, unroutable, ready,
		replicaLag, replicaSilent, replicaVanished, replicaWaiting, replicaDeadLetters,
		replicaApplied, replicaEqual, troubles,
	} {
		out <- s.desc
	}
	m.batches.sizes.Describe(out)
	m.batches.times.Describe(out)
}

// Collect implements prometheus.Collector.
func (m *Monitor) Collect(out chan<- prometheus.Metric) {
	ctx := context.Background() // a collector is given none; the queries have a timeout
	send := func(s series, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(s.desc, s.kind, value, labels...)
	}
	m.collectOutbox(ctx, send)
	m.collectRelay(send)
	m.collectModels(out, send)
	m.collectReplicas(ctx, send)
	m.collectTroubles(ctx, send)
	p := &m.published
	send(confirmed, float64(p.confirmed.Load()))
	send(returned, float64(p.returned.Load()))
	send(nacked, float64(p.nacked.Load()))
	send(refused, float64(p.refused.Load()))
	send(unknown, float64(p.unknown.Load()))
	if ask := p.unroutable.Load(); ask != nil {
		for topic, n := range (*ask)() {
			send(unroutable, float64(n), topic)
		}
	}
	send(ready, oneIf(m.Ready(ctx) == nil))
	m.batches.sizes.Collect(out)
	m.batches.times.Collect(out)
}

type sender func(s series, value float64, labels ...string)

func (m *Monitor) collectOutbox(ctx context.Context, send sender) {
	st, err := m.status.get(ctx, m.watched.Load())
	send(readable, oneIf(err == nil))
	if err != nil {
		return
	}
	send(unsent, float64(st.Unsent))
	send(oldest, st.OldestAge.Seconds())
	send(parked, float64(st.Retries))
	send(deadLetters, float64(st.DeadLetters))
	send(relays, float64(st.Relays))
	send(allLanes, float64(st.Lanes))
	send(ownedLanes, float64(st.LanesOwned))
}

func (m *Monitor) collectRelay(send sender) {
	w := m.watched.Load()
	if w == nil {
		return
	}
	st := w.Stats()
	send(published, float64(st.Published))
	send(compacted, float64(st.Compacted))
	send(batches, float64(st.Batches))
	send(retries, float64(st.Retries))
	send(buried, float64(st.DeadLetters))
	send(lanes, float64(st.Lanes))
	send(leasesLost, float64(st.LeasesLost))
	send(breaker, oneIf(st.BrokerAway), "broker")
	send(breaker, oneIf(st.DatabaseAway), "database")
}

func (m *Monitor) collectModels(out chan<- prometheus.Metric, send sender) {
	w := m.watched.Load()
	if w == nil {
		return
	}
	for model, s := range w.ModelStats() {
		send(modelPublished, float64(s.Published), model)
		within := make(map[float64]uint64, len(s.Within))
		for bound, n := range s.Within {
			within[bound.Seconds()] = n
		}
		out <- prometheus.MustNewConstHistogram(confirmDelay.desc, s.Timed, s.Took.Seconds(), within,
			model)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
