package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// counted is how much of a model was applied at a time.
type counted struct {
	applied int64
	at      time.Time
}

// report says how things stand, to each master.
func (r *Reporter) report(ctx context.Context) error {
	conditions, err := r.replica.Conditions(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	said := make(map[string]modelReport, len(conditions))
	models := make([]string, len(conditions))
	for i, c := range conditions {
		said[c.Model], models[i] = r.describe(c, now), c.Model
	}
	var errs []error
	for _, g := range r.masters.groups(models, now) {
		out := report{
			head:    head{Version: version, Kind: kindReport, Queue: r.queue, Instance: r.config.Instance},
			Library: library(), Pace: r.config.Pace.Seconds(), Echo: g.echo,
		}
		for _, id := range g.models {
			out.Models = append(out.Models, said[id])
		}
		body, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("write a report: %w", err)
		}
		answered, err := r.say(ctx, kindReport, g.models[0], body)
		if answered {
			r.counts.reports.Add(1)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Reporter) describe(c mirrored.Condition, now time.Time) modelReport {
	m := modelReport{
		ID: c.Model, Applied: c.Applied, Waiting: c.Waiting, DeadLetters: c.DeadLetters,
		Stuck: c.Stuck,
		Asked: r.lacks.askedOf(c.Model), Verify: r.verifySetting(c.Model),
	}
	if !c.Newest.IsZero() {
		m.Newest = &c.Newest
	}
	if last, is := r.before[c.Model]; is && now.After(last.at) {
		m.Rate = float64(c.Applied-last.applied) / now.Sub(last.at).Seconds()
	}
	r.before[c.Model] = counted{c.Applied, now}
	return m
}

// library is the version of this module, as the program was built with it.
var library = sync.OnceValue(func() string {
	const module = "github.com/cqrsync/cqrsync"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if info.Main.Path == module {
		return info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Version
		}
	}
	return "unknown"
})

func readHeartbeat(body []byte) (h heartbeat, err error) {
	if err := json.Unmarshal(body, &h); err != nil {
		return h, fmt.Errorf("%w: %w", errForeign, err)
	}
	if len(h.Models) == 0 || h.Sent.IsZero() {
		return h, fmt.Errorf("%w: a heartbeat without models or time", errForeign)
	}
	return h, nil
}

// Reported counts what a Reporter has done since it was made.
type Reported struct {
	// Reports were taken by a master.
	Reports int64
	// Asked keys were asked for, by cause.
	Asked map[string]int64
	// Deleted rows were only here, and the master neither had nor remembered them.
	Deleted int64
	// Dropped keys were not asked for, because too many were lacking.
	Dropped int64
	// Ignored messages are of a version or a kind that this one does not know.
	Ignored int64
}

type reported struct{ reports, ignored, deleted atomic.Int64 }

// Reported returns the counts so far.
func (r *Reporter) Reported() Reported {
	asked, dropped := r.lacks.asked()
	return Reported{
		Reports: r.counts.reports.Load(), Asked: asked,
		Dropped: dropped, Ignored: r.counts.ignored.Load(),
		Deleted: r.counts.deleted.Load(),
	}
}
