package dashboard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// functions are what templates call.
var functions = template.FuncMap{
	"plain": plain,
	"clock": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	// what is deleted until then is what the visitor saw, and nothing that came since
	"before": func(t time.Time) string {
		return t.Add(time.Microsecond).UTC().Format(time.RFC3339Nano)
	},
	"deref": func(t *time.Time) time.Time { return *t },
	"name":  diagnosis.KeyName,
	"lag":   func(s *float64) string { return fmt.Sprintf("%.1f s", *s) },
	"rate":  func(v float64) string { return fmt.Sprintf("%.4g", v) },
	"age":   func(d time.Duration) string { return d.Round(100 * time.Millisecond).String() },
	"about": func(n int64, estimated bool) string {
		if estimated {
			return fmt.Sprintf("about %d", n)
		}
		return fmt.Sprint(n)
	},
}

// overviewPage is how all of it is.
type overviewPage struct {
	State  diagnosis.State
	Cures  [][]cure // of each trouble
	Broker string
	Relays []relayRow
	Free   int // lanes that no relay has
	Plots  []plot
	Acts   bool
}

// relayRow is a live relay, or one that owned lanes.
type relayRow struct {
	ID    string
	Lanes int
	Left  time.Duration
	Own   bool // of this process
}

func (d *Dashboard) overviewOf(ctx context.Context) overviewPage {
	s := d.read(ctx)
	page := overviewPage{
		State: s, Plots: d.history.plots(time.Now()), Acts: d.config.Actions != nil,
		Broker: brokerOf(s),
	}
	for _, t := range s.Troubles {
		page.Cures = append(page.Cures, d.curesOf(s, t))
	}
	if s.Readable {
		page.Relays, page.Free = d.relayRows(ctx)
	}
	return page
}

// brokerOf says how the broker is, as far as relays say.
func brokerOf(s diagnosis.State) string {
	for _, o := range s.Outages {
		if o.What == "broker" {
			return "away since " + o.Since.UTC().Format("15:04:05 UTC")
		}
	}
	if !s.Readable || s.Master.Relays == 0 {
		return "unknown"
	}
	return "takes messages"
}

// relayRows are who owns lanes.
func (d *Dashboard) relayRows(ctx context.Context) (rows []relayRow, free int) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	master, err := d.config.Tables.Master(ctx)
	if err != nil {
		return nil, 0
	}
	lanes, err := master.Lanes(ctx)
	if err != nil {
		return nil, 0
	}
	index := map[string]int{}
	for _, l := range lanes {
		if l.Owner == "" || l.Left < 0 {
			free++
			continue
		}
		i, is := index[l.Owner]
		if !is {
			i = len(rows)
			index[l.Owner] = i
			rows = append(rows, relayRow{ID: l.Owner, Left: l.Left,
				Own: d.config.Relay != nil && d.config.Relay.ID() == l.Owner})
		}
		rows[i].Lanes++
	}
	slices.SortFunc(rows, func(a, b relayRow) int { return cmp.Compare(a.ID, b.ID) })
	return rows, free
}

// replicasPage is how each replica is.
type replicasPage struct {
	State diagnosis.State
	Acts  *Actions
}

func (d *Dashboard) replicasOf(ctx context.Context) replicasPage {
	return replicasPage{d.read(ctx), d.config.Actions}
}

// stuckPage is what does not move, grouped by error.
type stuckPage struct {
	State  diagnosis.State
	Groups []stuckGroup
	At     []stuckAtReplica
	Acts   *Actions
}

type stuckGroup struct {
	admin.StuckGroup

	ID string
}

type stuckAtReplica struct {
	Queue, Model string
	admin.ReplicaStuck
}

func (d *Dashboard) stuckOf(ctx context.Context) stuckPage {
	page := stuckPage{State: d.read(ctx), Acts: d.config.Actions}
	for _, g := range page.State.Stuck {
		page.Groups = append(page.Groups, stuckGroup{g, groupID(g)})
	}
	for _, r := range page.State.Replicas {
		for _, m := range r.Models {
			for _, s := range m.Stuck {
				page.At = append(page.At, stuckAtReplica{r.Queue, m.Model, s})
			}
		}
	}
	return page
}

// groupID names a group in a form. It is the same for as long as the errors have the same words.
func groupID(g admin.StuckGroup) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%v %s", g.Dead, admin.Alike(g.Error)))
	return hex.EncodeToString(sum[:8])
}
