//go:build unix

package chaos

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/servers"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "what the plans are drawn from; 0 draws one, and prints it")
	forFlag    = flag.Duration("for", 0, "how long each setup is tried, in rounds; 0 is one round")
	firstRound = flag.Int("round", 0, "the round to begin with")
	logsFlag   = flag.String("logs", "", "folder for all rounds' logs; empty keeps those of failures")
	onlySetups = flag.String("setups", "", "which setups, separated by commas; empty is all")
)

// TestChaos prints a row per setup and a column per promise. Zero in every column passes.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("go test ./tests/chaos -v -args -seed %d", seed)
	var results []*result
	t.Cleanup(func() { t.Log(table(results)) })
	for _, s := range setups {
		if *onlySetups != "" && !slices.Contains(strings.Split(*onlySetups, ","), s.name) {
			continue
		}
		res := &result{setup: s.name, found: findings{}}
		results = append(results, res)
		t.Run(s.name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			dbtest.Address(t, dbtest.RabbitMQ)
			d, broker := s.server(t), servers.StartRabbitMQ(t)
			start := time.Now()
			for number := *firstRound; number == *firstRound || time.Since(start) < *forFlag; number++ {
				t.Run(fmt.Sprint(number), func(t *testing.T) { try(t, s, d, broker, seed, number, res) })
			}
		})
	}
}

// try is one round of one setup.
func try(
	t *testing.T, s setup, d databases, broker *servers.RabbitMQ, seed uint64, number int, res *result,
) {
	plan := drawPlan(seed, s.name, number, shortRound, s.roles())
	t.Logf("-args -seed %d -setups %s -round %d:\n%s", seed, s.name, number, planText(plan))
	r := newRound(t, s, d, broker, seed, number)
	stopRepeating := r.repeat(rand.New(rand.NewPCG(seed, uint64(number))))
	r.run(plan)
	h := r.finish(stopRepeating)
	found := check(h)
	res.add(r, h, found, len(plan), stopRepeating())
	if len(found) > 0 {
		h.writeTo(r.log)
		t.Errorf("promises broken; the processes' log and every message are in %s:\n%s", r.logPath, found)
		return
	}
	require.Greater(t, len(h.tap), 100, "too little happened to say anything")
	requireSees(t, h.clone)
}

// result is a row of the table.
type result struct {
	setup                              string
	rounds, faults, commitsLost, ended int
	committed, unknown, rolledBack     int
	journalled, messages, repeated     int
	effects                            int
	found                              findings
}

func (res *result) add(r *round, h *history, found findings, faults, repeated int) {
	res.rounds++
	res.faults += faults
	res.ended += int(r.crew.ended.Load())
	for _, way := range r.ways {
		res.commitsLost += int(way.lost.Load())
	}
	for _, said := range h.said {
		switch said {
		case saidCommitted:
			res.committed++
		case saidRolledBack:
			res.rolledBack++
		case saidUnknown:
			res.unknown++
		}
	}
	committed := map[string]bool{}
	for _, j := range h.journal {
		committed[j.Txn] = true
	}
	for txn := range committed {
		if h.said[txn] == "" {
			res.unknown++ // its writer was killed before it could say anything
		}
	}
	res.journalled += len(h.journal)
	res.messages += len(h.tap)
	res.repeated += repeated
	res.effects += len(h.effects)
	for promise, some := range found {
		res.found[promise] = append(res.found[promise], some...)
	}
}

func table(results []*result) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	heads := append([]string{
		"setup", "rounds", "faults", "COMMITs lost", "committed", "unknown", "rolled back", "changes",
		"messages", "repeated", "effects",
	}, promises...)
	fmt.Fprintf(w, "\n%s\t\n", strings.Join(heads, "\t"))
	for _, res := range results {
		fmt.Fprintf(w, "%s\t", res.setup)
		for _, n := range []int{
			res.rounds, res.faults, res.commitsLost, res.committed, res.unknown, res.rolledBack,
			res.journalled, res.messages, res.repeated, res.effects,
		} {
			fmt.Fprintf(w, "%d\t", n)
		}
		for _, promise := range promises {
			fmt.Fprintf(w, "%d\t", len(res.found[promise]))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // to memory
	return text.String()
}

// clone is a history that may be changed.
func (h *history) clone() *history {
	c := *h
	c.said, c.master = maps.Clone(h.said), maps.Clone(h.master)
	c.journal, c.tap = slices.Clone(h.journal), slices.Clone(h.tap)
	c.effects, c.letters = slices.Clone(h.effects), slices.Clone(h.letters)
	c.replicas = map[string]map[key]copied{}
	for name, rows := range h.replicas {
		c.replicas[name] = maps.Clone(rows)
	}
	return &c
}

// writeTo writes every message, so that a finding can be followed.
func (h *history) writeTo(w io.Writer) {
	for place, m := range h.tap {
		fmt.Fprintf(w, "message %d: %s revision %d %s of %s\n", place, m.key, m.revision, m.signal, m.txn)
	}
}
