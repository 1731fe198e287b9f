package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// benchCase measures one way of doing the work, once, in the group's unit.
type benchCase struct {
	name    string
	measure func(ctx context.Context) (float64, error)
}

// group is a set of cases that are compared with each other.
type group struct {
	bench, name, unit string
	of                string // the case that the ratios refer to
	cases             []benchCase
	// rounds has the cases that take long, but never the one in of: only that many first rounds
	// measure them.
	rounds map[string]int
}

type result struct {
	group
	values map[string][]float64 // case → one value per round, from the first on
}

// measure runs the cases round by round, so that a slow minute of the machine hits all, each round
// in an order of its own, so that none always runs behind the same one and pays for its traces.
func (g group) measure(ctx context.Context, o options) (result, error) {
	r := result{group: g, values: map[string][]float64{}}
	for round := range o.rounds {
		for _, i := range rand.Perm(len(g.cases)) {
			c := g.cases[i]
			if limit, limited := g.rounds[c.name]; limited && round >= limit {
				continue
			}
			fmt.Fprintf(o.progress, "\r\x1b[K%s %s: round %d of %d: %s",
				g.bench, g.name, round+1, o.rounds, c.name)
			value, err := c.measure(ctx)
			if err != nil {
				return r, fmt.Errorf("%s: %s: %w", g.name, c.name, err)
			}
			r.values[c.name] = append(r.values[c.name], value)
		}
	}
	fmt.Fprint(o.progress, "\r\x1b[K")
	return r, nil
}

// ratios divides a case's value by the reference's of the same round.
func (r result) ratios(name string) []float64 {
	ratios := make([]float64, len(r.values[name]))
	for i, value := range r.values[name] {
		ratios[i] = value / r.values[r.of][i]
	}
	return ratios
}

func (r result) table(w io.Writer) {
	fmt.Fprintf(w, "%s (%s)\n", r.name, r.unit)
	for _, c := range r.cases {
		values, ratios := r.values[c.name], r.ratios(c.name)
		fmt.Fprintf(w, "  %-34s %10.1f  [%.1f … %.1f]   ratio %.2f [%.2f … %.2f] of %s\n", c.name,
			median(values), slices.Min(values), slices.Max(values),
			median(ratios), slices.Min(ratios), slices.Max(ratios), r.of)
	}
}

func (r result) json(w io.Writer) {
	for _, c := range r.cases {
		values := r.values[c.name]
		line, _ := json.Marshal(struct { // numbers and strings always can be
			Bench  string  `json:"bench"`
			Case   string  `json:"case"`
			Unit   string  `json:"unit"`
			Median float64 `json:"median"`
			Min    float64 `json:"min"`
			Max    float64 `json:"max"`
			Ratio  float64 `json:"ratio"`
			Of     string  `json:"of"`
		}{
			r.bench, r.name + ": " + c.name, r.unit, median(values), slices.Min(values), slices.Max(values),
			median(r.ratios(c.name)), r.name + ": " + r.of,
		})
		fmt.Fprintf(w, "%s\n", line)
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
