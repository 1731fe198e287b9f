package converge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
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
	// Verify says what is done about rows that are not as the master has them, when it compares.
	// Default: Repair.
	Verify Verify
	// Grace is how long a difference has to last to be one. Default: 30 s.
	Grace time.Duration
	// Content names the models of which what the rows hold is compared, too, in the columns that the
	// master fills. So changes behind the replica's back are found. It costs both sides as much as
	// reading all rows. Default: none.
	Content []string
	// Logger receives that a master answers, or does not. Default: slog.Default().
	Logger *slog.Logger
}

func (c ReporterConfig) withDefaults() ReporterConfig {
	c.Pace = cmp.Or(c.Pace, defaultPace)
	c.Backfill = cmp.Or(c.Backfill, NoFill)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Verify = cmp.Or(c.Verify, Repair)
	c.Grace = cmp.Or(c.Grace, defaultGrace)
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
		err = errors.Join(err, fmt.Errorf(
			"field Instance is %.40q: want a name of at most 200 characters", c.Instance))
	}
	if c.Backfill != NoFill && c.Backfill != IfEmpty {
		err = errors.Join(err, fmt.Errorf(
			"field Backfill is %q: want %q or %q", c.Backfill, NoFill, IfEmpty))
	}
	if c.Backfill == IfEmpty && c.NoRequests {
		err = errors.Join(err, fmt.Errorf(
			"field Backfill is %q and NoRequests is set: leave out one of them", c.Backfill))
	}
	if c.Verify != Repair && c.Verify != ReportOnly && c.Verify != NoVerify {
		err = errors.Join(err, fmt.Errorf(
			"Verify is %q: want %q, %q or %q", c.Verify, Repair, ReportOnly, NoVerify))
	}
	if c.Grace < 0 || c.Grace > maxPace {
		err = errors.Join(err, fmt.Errorf(
			"the Grace is %s: want a positive time, at most %s, or 0 for %s",
			c.Grace, maxPace, defaultGrace))
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
	reported  chan struct{}   // closed when a master has taken a report
	log       *slog.Logger
	started   atomic.Bool
	masters   masters
	lacks     lacks
	silent    silent
	before    map[string]counted // of each model, at the last report
	counts    reported
	verifier  *verifier
	kept      kept
	letters   chan letters  // dead letters that something is to be done about
	hurry     chan struct{} // a report is due at once
	noted     noted
}

// NewReporter makes the replica's side. publisher sends to the master, and should return
// transport.ErrUnroutable where nobody takes what it sends (transport/open.Options.RequireQueue):
// so a replica notices that its master does not answer. Make it before the replica runs.
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
		replica: mirrored.Of(rep), running: rep.Running(), reported: make(chan struct{}),
		log:     config.Logger.With("queue", rep.Queue()),
		letters: make(chan letters, 100), hurry: make(chan struct{}, 1),
		before: map[string]counted{}, lacks: lacks{again: askAgain * config.Pace},
	}
	if !r.replica.HasLedger() { // then nobody knows what is there, and what is lacking
		r.config.NoRequests, r.config.Verify = true, NoVerify
		if r.config.Backfill == IfEmpty {
			return nil, errors.New("converge: configuration: Backfill: the replica has no database, so " +
				"nobody knows whether it is empty: leave it out")
		}
	}
	r.verifier = newVerifier(r, rep)
	if err := r.replica.Listen(r); err != nil {
		return nil, fmt.Errorf("converge: %w", err)
	}
	if err := r.keep(config.Content); err != nil {
		return nil, fmt.Errorf("converge: configuration: %w", err)
	}
	return r, nil
}

// startTime is how long a master that does not answer may just be starting.
const startTime = 2 * time.Minute

// Run reports and asks until ctx ends, and returns nil then. It goes beside the replica's Run.
func (r *Reporter) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("converge: Run was called before: make a new Reporter")
	}
	var running sync.WaitGroup
	running.Go(func() { r.ask(ctx) })
	running.Go(func() { r.askBackfills(ctx) })
	running.Go(func() { r.verifier.run(ctx) })
	running.Go(func() { r.tendLetters(ctx) })
	tick := time.NewTicker(r.config.Pace)
	defer tick.Stop()
	select { // a master that knows of the replica expects its queue to be there
	case <-r.running:
	case <-time.After(defaultPace): // who uses Handler is not told
	case <-ctx.Done():
	}
	first := sync.OnceFunc(func() { close(r.reported) })
	var again <-chan time.Time
	began := time.Now()
	for ctx.Err() == nil {
		if err := r.report(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot report to the master", "error", err)
		}
		if r.counts.reports.Load() > 0 {
			first()
		} else if time.Since(began) < startTime {
			again = time.After(askEvery)
		}
		select {
		case <-tick.C:
		case <-again:
		case <-r.masters.news():
		case <-r.hurry:
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
		return r.note(ctx, beat)
	case kindBackfilled:
		return r.hearBackfilled(ctx, body)
	case kindRetry, kindPurge:
		return r.hearLetters(h.Kind, body)
	case kindInquiry:
		return r.hearInquiry(ctx, body)
	case kindRanges, kindListing, kindWalk, kindAbsent:
		return r.verifier.hear(h.Kind, body)
	default:
		return fmt.Errorf("%w: kind %.40q", errForeign, h.Kind)
	}
}

// verifySetting is what the reports say of the verification.
func (r *Reporter) verifySetting(model string) *verifySetting {
	if r.config.Verify == NoVerify {
		return nil
	}
	return &verifySetting{
		Grace: r.config.Grace.Seconds(), NoRepair: r.config.Verify == ReportOnly || r.config.NoRequests,
		Fields: r.kept.fieldsOf(model),
	}
}

// say sends something to the master of a model. answered is false where nobody takes it.
func (r *Reporter) say(
	ctx context.Context, k kind, model string, body []byte,
) (answered bool, err error) {
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
			r.log.Info("no master takes reports of this model: it is not known there, or too old; trying "+
				"again now and then", "model", model, "reason", err)
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
