package converge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
)

// ReporterConfig configures a Reporter. The zero value is usable.
type ReporterConfig struct {
	// Pace is how often the replica reports, at most an hour. Default: 10 s.
	Pace time.Duration
	// Instance names this process among those of the replica. Default: host name, process number and
	// a random part.
	Instance string
	// NoRequests makes the replica report, and ask for nothing. Default: it asks for what it lacks.
	NoRequests bool
	// Backfill says which models the replica asks its master for as a whole. Default: NoFill.
	Backfill Fill
	// Logger receives that a master answers, or does not. Default: slog.Default().
	Logger *slog.Logger
}

func (c ReporterConfig) withDefaults() ReporterConfig {
	c.Pace = cmp.Or(c.Pace, defaultPace)
	c.Backfill = cmp.Or(c.Backfill, NoFill)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown" // the random part still makes it unique
		}
		c.Instance = fmt.Sprintf("%.100s-%d-%s", host, os.Getpid(), rand.Text()[:8])
	}
	return c
}

// validate checks a config that has its defaults, all fields at once.
func (c ReporterConfig) validate() error {
	err := checkPace(c.Pace)
	if !names.MatchString(c.Instance) {
		err = errors.Join(err, fmt.Errorf("field Instance is %.40q: want a name of at most 200 characters", c.Instance))
	}
	if c.Backfill != NoFill && c.Backfill != IfEmpty {
		err = errors.Join(err, fmt.Errorf("field Backfill is %q: want %q or %q", c.Backfill, NoFill, IfEmpty))
	}
	if c.Backfill == IfEmpty && c.NoRequests {
		err = errors.Join(err, fmt.Errorf("field Backfill is %q and NoRequests is set: leave out one of them", c.Backfill))
	}
	return err
}

// Reporter is the replica's side of the conversation: one in each process.
type Reporter struct {
	config    ReporterConfig
	publisher transport.BatchPublisher
	queue     string
	replica   mirrored.Replica
	running   <-chan struct{} // closed once the replica has its queue
	reported  chan struct{}   // closed after the first report
	log       *slog.Logger
	started   atomic.Bool
	masters   masters
	lacks     lacks
	silent    silent
	before    map[string]counted // of each model, at the last report
	counts    reported
}

// NewReporter makes the replica's side. publisher sends to the master, and should return
// transport.ErrUnroutable where nobody takes what it sends (transport/open.Options.RequireQueue): so
// a replica notices that its master does not answer. Make it before the replica runs.
func NewReporter(
	rep *replica.Replica, publisher message.Publisher, config ReporterConfig,
) (*Reporter, error) {
	config = config.withDefaults()
	err := config.validate()
	if rep == nil {
		err = errors.Join(err, errors.New("rep is nil: pass the replica"))
	}
	if publisher == nil {
		err = errors.Join(err, errors.New("publisher is nil: pass one to the replica's broker"))
	}
	if err != nil {
		return nil, fmt.Errorf("converge: configuration: %w", err)
	}
	r := &Reporter{
		config: config, publisher: transport.Batch(publisher), queue: rep.Queue(),
		replica: mirrored.Of(rep), running: rep.Running(), reported: make(chan struct{}), log: config.Logger.With("queue", rep.Queue()),
		before: map[string]counted{},
	}
	if !r.replica.HasLedger() { // then nobody knows what is there, and what is lacking
		r.config.NoRequests = true
		if r.config.Backfill == IfEmpty {
			return nil, errors.New("converge: configuration: Backfill: the replica has no database, so nobody knows " +
				"whether it is empty: leave it out")
		}
	}
	if err := r.replica.Listen(r); err != nil {
		return nil, fmt.Errorf("converge: %w", err)
	}
	return r, nil
}

// Run reports and asks until ctx ends, and returns nil then. It goes beside the replica's Run.
func (r *Reporter) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("converge: Run was called before: make a new Reporter")
	}
	var running sync.WaitGroup
	running.Go(func() { r.ask(ctx) })
	running.Go(func() { r.askBackfills(ctx) })
	tick := time.NewTicker(r.config.Pace)
	defer tick.Stop()
	select { // a master that knows of the replica expects its queue to be there
	case <-r.running:
	case <-time.After(defaultPace): // who uses Handler is not told
	case <-ctx.Done():
	}
	first := sync.OnceFunc(func() { close(r.reported) })
	for ctx.Err() == nil {
		if err := r.report(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot report to the master", "error", err)
		}
		first()
		select {
		case <-tick.C:
		case <-r.masters.news():
		case <-ctx.Done():
		}
	}
	running.Wait()
	return nil
}

// Lacks implements mirrored.Listener.
func (r *Reporter) Lacks(l mirrored.Lack) {
	if !r.config.NoRequests {
		r.lacks.add(l, time.Now())
	}
}

// Control implements mirrored.Listener.
func (r *Reporter) Control(ctx context.Context, body []byte) {
	if err := r.hear(ctx, body); err != nil {
		r.counts.ignored.Add(1)
		r.log.Debug("something that a master said was ignored", "error", err)
	}
}

func (r *Reporter) hear(ctx context.Context, body []byte) error {
	h, err := readHead(body)
	if err != nil {
		return err
	}
	switch h.Kind {
	case kindHeartbeat:
		beat, err := readHeartbeat(body)
		if err != nil {
			return err
		}
		r.masters.hear(beat, time.Now())
		return nil
	case kindBackfilled:
		return r.hearBackfilled(ctx, body)
	default:
		return fmt.Errorf("%w: kind %.40q", errForeign, h.Kind)
	}
}

// say sends something to the master of a model. answered is false where nobody takes it.
func (r *Reporter) say(ctx context.Context, k kind, model string, body []byte) (answered bool, err error) {
	topic := transport.MasterTopic(model)
	if r.silent.still(topic, time.Now()) {
		return false, nil
	}
	m, err := envelop(k, body)
	if err != nil {
		return false, err
	}
	m.Metadata.Set(transport.ExpirationKey, expiration)
	err = publish(ctx, r.publisher, topic, m)
	if transport.AtDestination(err) {
		if r.silent.add(topic, time.Now()) {
			r.log.Info("no master takes reports of this model: it is not known there, or too old; trying again now "+
				"and then", "model", model, "reason", err)
		}
		return false, nil
	}
	if err == nil && r.silent.end(topic) {
		r.log.Info("the master takes reports of this model", "model", model)
	}
	return err == nil, err
}

// expiration is how long the broker keeps what a replica says, in milliseconds.
const expiration = "600000"

// silent are the topics of masters that nobody takes anything from. It is safe for concurrent use.
type silent struct {
	mu     sync.Mutex
	topics map[string]silence
}

// silence is when a topic was tried last, and how long it is not tried again.
type silence struct {
	tried time.Time
	pause time.Duration
}

// A master that does not answer may be starting, or does not know how. It is tried again after
// retrySilent, and each time after twice as long.
const (
	retrySilent     = time.Second
	retrySilentMost = time.Minute
)

func (s *silent) still(topic string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, is := s.topics[topic]
	return is && now.Sub(last.tried) < last.pause
}

func (s *silent) add(topic string, now time.Time) (isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics == nil {
		s.topics = map[string]silence{}
	}
	last, was := s.topics[topic]
	s.topics[topic] = silence{now, min(max(2*last.pause, retrySilent), retrySilentMost)}
	return !was
}

func (s *silent) end(topic string) (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was = s.topics[topic]
	delete(s.topics, topic)
	return was
}

// masters are those that have been heard. It is safe for concurrent use.
type masters struct {
	mu    sync.Mutex
	heard []heard
	fresh chan struct{}
}

// heard is the newest heartbeat of a master.
type heard struct {
	heartbeat

	at time.Time
}

// believed is how long a master counts as there that sends no heartbeats.
const believed = 5 * time.Minute

func (m *masters) hear(beat heartbeat, now time.Time) {
	slices.Sort(beat.Models)
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.heard, func(h heard) bool { return slices.Equal(h.Models, beat.Models) })
	if i < 0 {
		// Another list of models: of a new master, or of one that has changed.
		m.heard = slices.DeleteFunc(m.heard, func(h heard) bool {
			return slices.ContainsFunc(h.Models, func(id string) bool { return slices.Contains(beat.Models, id) })
		})
		m.heard = append(m.heard, heard{beat, now})
		m.signal()
		return
	}
	if beat.Sent.After(m.heard[i].Sent) {
		m.heard[i] = heard{beat, now}
	}
}

func (m *masters) signal() {
	if m.fresh == nil {
		m.fresh = make(chan struct{}, 1)
	}
	select {
	case m.fresh <- struct{}{}:
	default:
	}
}

// news receives when a master was heard for the first time.
func (m *masters) news() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fresh == nil {
		m.fresh = make(chan struct{}, 1)
	}
	return m.fresh
}

// groups puts models together that one master answers for; each of the others stands alone.
func (m *masters) groups(models []string, now time.Time) (groups []group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = slices.DeleteFunc(m.heard, func(h heard) bool { return now.Sub(h.at) > believed })
	rest := slices.Clone(models)
	for _, h := range m.heard {
		g := group{echo: &echo{Sent: h.Sent, Through: h.Through, Held: now.Sub(h.at).Seconds()}}
		rest = slices.DeleteFunc(rest, func(id string) bool {
			is := slices.Contains(h.Models, id)
			if is {
				g.models = append(g.models, id)
			}
			return is
		})
		if len(g.models) > 0 {
			groups = append(groups, g)
		}
	}
	for _, id := range rest {
		groups = append(groups, group{models: []string{id}})
	}
	return groups
}

// group are models that one master answers for.
type group struct {
	models []string
	echo   *echo
}
