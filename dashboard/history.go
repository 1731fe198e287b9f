package dashboard

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// sample is how things stood at a moment.
type sample struct {
	at             time.Time
	unsent, oldest float64 // NaN where nobody knew
	// Messages a second since the sample before, that left by this relay and that were written; NaN
	// where nobody knows: without a relay, or with several.
	sent, written float64
}

// history keeps the samples of the last hour. It is safe for concurrent use.
type history struct {
	mu      sync.Mutex
	samples []sample
	gone    *gone // by the last one
}

// gone is what has left the outbox by this relay, sent and in all.
type gone struct{ sent, all int64 }

// kept is how long, and most how many samples are kept.
const (
	kept        = time.Hour
	mostSamples = int(kept/sampleEvery) + 1
)

func (h *history) add(now time.Time, s diagnosis.State, g *gone) {
	h.mu.Lock()
	defer h.mu.Unlock()
	unknown := math.NaN()
	next := sample{now, unknown, unknown, unknown, unknown}
	if s.Readable {
		next.unsent, next.oldest = float64(s.Master.Unsent), s.Master.OldestAge.Seconds()
	}
	n := len(h.samples)
	if n > 0 && now.Sub(h.samples[n-1].at) < sampleEvery-time.Second {
		return // somebody looks often
	}
	if n > 0 && g != nil && h.gone != nil {
		before := h.samples[n-1]
		took := now.Sub(before.at).Seconds()
		next.sent = float64(g.sent-h.gone.sent) / took
		if s.Master.Relays == 1 && !s.Master.UnsentEstimated { // else NaN, or NaN follows from unsent
			next.written = max(0, float64(g.all-h.gone.all)+next.unsent-before.unsent) / took
		}
	}
	h.gone = g
	h.samples = append(h.samples, next)
	for len(h.samples) > mostSamples || now.Sub(h.samples[0].at) > kept {
		h.samples = h.samples[1:]
	}
}

// plot is a curve of the last hour.
type plot struct {
	// Title names it, Now and Most are its last and its highest value.
	Title, Now, Most string
	// Path is the curve in a box of 600 by 80, empty where there is nothing to show.
	Path template.HTMLAttr
}

const plotWidth, plotHeight = 600.0, 80.0

// plots draws the curves, which need no script to be seen.
func (h *history) plots(now time.Time) []plot {
	h.mu.Lock()
	defer h.mu.Unlock()
	plots := []plot{
		h.plot(now, "Unsent messages", number, func(s sample) float64 { return s.unsent }),
		h.plot(now, "Age of the oldest", seconds, func(s sample) float64 { return s.oldest }),
	}
	if h.gone != nil {
		plots = append(plots, h.plot(now, "Written a second", number,
			func(s sample) float64 { return s.written }), h.plot(now, "Sent a second, by this relay",
			number, func(s sample) float64 { return s.sent }))
	}
	return plots
}

func number(v float64) string { return fmt.Sprintf("%.4g", v) }

func seconds(v float64) string { return fmt.Sprintf("%.3g s", v) }

func (h *history) plot(
	now time.Time, title string, text func(float64) string, of func(sample) float64,
) plot {
	most, last := 0.0, math.NaN()
	for _, s := range h.samples {
		if v := of(s); !math.IsNaN(v) {
			most, last = max(most, v), v
		}
	}
	p := plot{Title: title, Now: "unknown", Most: text(most)}
	if !math.IsNaN(last) {
		p.Now = text(last)
	}
	var path strings.Builder
	draw := "M"
	for _, s := range h.samples {
		v := of(s)
		if math.IsNaN(v) {
			draw = "M" // a gap
			continue
		}
		x := plotWidth * (1 - now.Sub(s.at).Seconds()/kept.Seconds())
		y := plotHeight - 2 - (plotHeight-4)*v/max(most, 1e-9)
		fmt.Fprintf(&path, "%s%.0f %.0f", draw, x, y)
		draw = "L"
	}
	p.Path = template.HTMLAttr(`d="` + path.String() + `"`) //nolint:gosec // numbers
	return p
}
