package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

func (o *options) statusFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "side", Destination: &o.side, Value: string(store.Outbox),
			Usage: "whose: outbox (what is to be published) or replica (what waits there, and where its messages come from)",
		},
		&cli.BoolFlag{Name: "json", Destination: &o.json, Usage: "one JSON object instead of a table"},
	}
}

// statusObject is what status --json prints. Names are never changed, only added.
type statusObject struct {
	Unsent        int64   `json:"unsent"`
	OldestSeconds float64 `json:"oldest_seconds"`
	RetryingKeys  int64   `json:"retrying_keys"`
	DeadLetters   int64   `json:"dead_letters"`
	Relays        int64   `json:"relays"`
	Lanes         int64   `json:"lanes"`
	LanesOwned    int64   `json:"lanes_owned"`
	LanesAhead    int64   `json:"lanes_ahead"`
	// Incarnation is that of the master's database, and why it was drawn.
	Incarnation string `json:"incarnation"`
	Reason      string `json:"incarnation_reason"`
	// Present where there are more than 100,000, which are not counted.
	UnsentEstimated       bool `json:"unsent_estimated,omitempty"`
	RetryingKeysEstimated bool `json:"retrying_keys_estimated,omitempty"`
	DeadLettersEstimated  bool `json:"dead_letters_estimated,omitempty"`
}

// rows is how a number of rows is printed.
func rows(n int64, estimated bool) string {
	if estimated {
		return fmt.Sprintf("about %d (estimated)", n)
	}
	return fmt.Sprint(n)
}

func (o *options) status(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, dbErr := o.openStore()
	if err := wrong(noArguments(cmd), dbErr); err != nil {
		return err
	}
	if err := s.RequireMigrated(ctx, store.Outbox); err != nil {
		return err
	}
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	incarnation, err := s.Incarnation(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(o.stdout).Encode(statusObject{
			Unsent: st.Unsent, OldestSeconds: st.OldestAge.Seconds(), RetryingKeys: st.Retries,
			DeadLetters: st.DeadLetters, Relays: st.Relays, Lanes: st.Lanes, LanesOwned: st.LanesOwned,
			LanesAhead: st.LanesAhead, UnsentEstimated: st.UnsentEstimated,
			RetryingKeysEstimated: st.RetriesEstimated, DeadLettersEstimated: st.DeadLettersEstimated,
			Incarnation: incarnation.ID, Reason: incarnation.Reason,
		})
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "unsent messages\t%s\n", rows(st.Unsent, st.UnsentEstimated))
	fmt.Fprintf(table, "oldest\t%s\n", st.OldestAge.Round(time.Millisecond))
	fmt.Fprintf(table, "keys being retried\t%s\n", rows(st.Retries, st.RetriesEstimated))
	fmt.Fprintf(table, "dead letters\t%s\n", rows(st.DeadLetters, st.DeadLettersEstimated))
	fmt.Fprintf(table, "live relays\t%d\n", st.Relays)
	fmt.Fprintf(table, "lanes owned\t%d of %d\n", st.LanesOwned, st.Lanes)
	if !incarnation.First() {
		fmt.Fprintf(table, "incarnation\t%s since %s: %s\n",
			incarnation.ID, incarnation.Drawn.Format(time.RFC3339), oneLine(incarnation.Reason))
	}
	if st.LanesAhead > 0 {
		fmt.Fprintf(table, "lanes whose lease ends too late\t%d: the database's clock went back; relays take them\n", st.LanesAhead)
	}
	return table.Flush()
}
