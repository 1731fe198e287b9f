package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
)

// reportWritten prints the table of transactions.
func (d *demo) reportWritten(done tallies, took time.Duration) {
	var sum tally
	table := tabwriter.NewWriter(d.Out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "transactions\tcount\torders changed\t")
	for kind, t := range done {
		fmt.Fprintf(table, "%s\t%d\t%d\t\n", kinds[kind].name, t.transactions, t.changes)
		sum.transactions += t.transactions
		sum.changes += t.changes
	}
	fmt.Fprintf(table, "all\t%d\t%d\t\n", sum.transactions, sum.changes)
	_ = table.Flush() // like Fprintf, to a report
	fmt.Fprintf(d.Out, "written in %s (%.0f transactions/s); now comparing\n",
		took.Round(time.Millisecond), float64(sum.transactions)/took.Seconds())
	if d.KillRelay > 0 {
		fmt.Fprintf(d.Out, "the relay was killed %d times\n", d.KillRelay)
	}
}

// reportApplied prints what the replicas in this process did with the messages.
func (d *demo) reportApplied(took time.Duration) {
	for _, name := range slices.Sorted(maps.Keys(d.Stats)) {
		s := d.Stats[name]()
		fmt.Fprintf(d.Out, "%s applied %d messages (%.0f/s), %d duplicates, %d stale, %d dead letters\n",
			name, s.Applied, float64(s.Applied)/took.Seconds(), s.Duplicates, s.Stale, s.DeadLettered)
	}
}

// progress is a bar on a terminal, or nothing.
type progress struct{ bar *progressbar.ProgressBar }

func newProgress(out io.Writer, total int) progress {
	if out == nil {
		return progress{}
	}
	return progress{progressbar.NewOptions(total,
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetDescription("orders"),
		progressbar.OptionSetWidth(40),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)}
}

func (p progress) add(n int) {
	if p.bar != nil {
		_ = p.bar.Add(n) // a terminal that cannot be written to shows no bar
	}
}

func (p progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
