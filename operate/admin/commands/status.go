package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

func (s Source) status() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show what waits in the outbox, or on a replica",
		Flags: append([]cli.Flag{
			sideFlag("whose: outbox (what is to be published) or replica (what waits there, and " +
				"where its messages come from)"),
			jsonFlag("one JSON object instead of text"),
			&cli.DurationFlag{
				Name: "watch", Usage: "show it again so often, as in 2s, until Ctrl-C",
			},
		}, DiagnosisFlags()...),
		Action: watched(bySide(s.masterStatus, s.replicaStatus)),
	}
}

// masterStatusObject is what status --json prints.
type masterStatusObject struct {
	// Sentence says all of it in one line; Troubles are what is wrong, with what to do. Stuck is what
	// does not leave the outbox, by its error, and Outages what processes wait for.
	Sentence string              `json:"sentence"`
	Troubles []diagnosis.Trouble `json:"troubles"`
	Stuck    []admin.StuckGroup  `json:"stuck"`
	Outages  []admin.Outage      `json:"outages"`

	// Unsent counts the messages in the outbox, OldestSeconds is how long the oldest has waited,
	// RetryingKeys those of which a try failed, and DeadLetters those that were given up.
	Unsent        int64   `json:"unsent"`
	OldestSeconds float64 `json:"oldest_seconds"`
	RetryingKeys  int64   `json:"retrying_keys"`
	DeadLetters   int64   `json:"dead_letters"`
	// Relays live. They own LanesOwned of all Lanes; the lease of LanesAhead ends too late, because
	// the database's clock went back.
	Relays     int64 `json:"relays"`
	Lanes      int64 `json:"lanes"`
	LanesOwned int64 `json:"lanes_owned"`
	LanesAhead int64 `json:"lanes_ahead"`
	// Incarnation is the master's database on this course of its history, and Reason why it was
	// drawn.
	Incarnation string `json:"incarnation"`
	Reason      string `json:"incarnation_reason"`
	// Replicas are those that have reported.
	Replicas []admin.KnownReplica `json:"replicas"`
	// Present where there are more than 100,000, which are not counted.
	UnsentEstimated       bool `json:"unsent_estimated,omitempty"`
	RetryingKeysEstimated bool `json:"retrying_keys_estimated,omitempty"`
	DeadLettersEstimated  bool `json:"dead_letters_estimated,omitempty"`
}

func (s Source) masterStatus(ctx context.Context, cmd *cli.Command) error {
	config, wrong := DiagnosisConfig(cmd)
	t, err := s.open(ctx, false, noArguments(cmd), wrong)
	if err != nil {
		return s.sayAway(cmd, diagnosis.DatabaseAway, err)
	}
	state := diagnosis.Read(ctx, t, config)
	if !state.Readable { // the error decides about the exit code
		_, err := t.Master(ctx)
		if err == nil {
			err = errors.New(state.Sentence)
		}
		if !cmd.Bool("json") {
			printSentences(cmd, state.Sentence, state.Troubles)
		}
		return err
	}
	if cmd.Bool("json") {
		return printJSON(cmd, statusObject(state))
	}
	printSentences(cmd, state.Sentence, state.Troubles)
	fmt.Fprintln(cmd.Root().Writer)
	if err := printMasterStatus(cmd, state.Master); err != nil || len(state.Replicas) == 0 {
		return err
	}
	fmt.Fprintln(cmd.Root().Writer)
	return printReplicas(cmd, state.Replicas)
}

// sayAway says that a database is away which was asked while it was opened, and returns the error.
func (s Source) sayAway(cmd *cli.Command, kind diagnosis.Kind, err error) error {
	if _, away := errors.AsType[*database.AwayError](err); away && !cmd.Bool("json") {
		t := diagnosis.Unanswered(kind, err)
		printSentences(cmd, t.Sentence(), []diagnosis.Trouble{t})
	}
	return err
}

func statusObject(state diagnosis.State) masterStatusObject {
	st := state.Master
	return masterStatusObject{
		Sentence: state.Sentence, Troubles: state.Troubles,
		Stuck: orEmpty(state.Stuck), Outages: orEmpty(state.Outages),
		Unsent: st.Unsent, OldestSeconds: st.OldestAge.Seconds(), RetryingKeys: st.Retries,
		DeadLetters: st.DeadLetters, Relays: st.Relays, Lanes: st.Lanes, LanesOwned: st.LanesOwned,
		LanesAhead: st.LanesAhead, UnsentEstimated: st.UnsentEstimated,
		RetryingKeysEstimated: st.RetriesEstimated, DeadLettersEstimated: st.DeadLettersEstimated,
		Incarnation: st.Incarnation.ID, Reason: st.Incarnation.Reason,
		Replicas: state.Replicas,
	}
}

// orEmpty is a list that JSON shows as one.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func printMasterStatus(cmd *cli.Command, st admin.MasterStatus) error {
	table := newTable(cmd)
	fmt.Fprintf(table, "unsent messages\t%s\n", count(st.Unsent, st.UnsentEstimated))
	fmt.Fprintf(table, "oldest\t%s\n", st.OldestAge.Round(time.Millisecond))
	fmt.Fprintf(table, "keys being retried\t%s\n", count(st.Retries, st.RetriesEstimated))
	fmt.Fprintf(table, "dead letters\t%s\n", count(st.DeadLetters, st.DeadLettersEstimated))
	fmt.Fprintf(table, "live relays\t%d\n", st.Relays)
	fmt.Fprintf(table, "lanes owned\t%d of %d\n", st.LanesOwned, st.Lanes)
	if i := st.Incarnation; !i.First() {
		fmt.Fprintf(table, "incarnation\t%s since %s: %s\n",
			i.ID, i.Drawn.Format(time.RFC3339), oneLine(i.Reason))
	}
	if st.LanesAhead > 0 {
		fmt.Fprintf(table, "lanes whose lease ends too late\t%d: the database's clock went back; "+
			"relays take them\n",
			st.LanesAhead)
	}
	return table.Flush()
}

func (s Source) replicaStatus(ctx context.Context, cmd *cli.Command) error {
	config, wrong := DiagnosisConfig(cmd)
	t, err := s.open(ctx, false, noArguments(cmd), wrong)
	if err != nil {
		return s.sayAway(cmd, diagnosis.ReplicaDatabaseAway, err)
	}
	state, err := diagnosis.ReadReplica(ctx, t, config)
	if err != nil {
		if !cmd.Bool("json") && len(state.Troubles) > 0 {
			printSentences(cmd, state.Sentence, state.Troubles)
		}
		return err
	}
	if cmd.Bool("json") {
		return printJSON(cmd, struct {
			diagnosis.ReplicaState
			admin.ReplicaStatus
		}{state, state.Status})
	}
	printSentences(cmd, state.Sentence, state.Troubles)
	fmt.Fprintln(cmd.Root().Writer)
	return printReplicaStatus(cmd, state.Status)
}

func printReplicaStatus(cmd *cli.Command, st admin.ReplicaStatus) error {
	table := newTable(cmd)
	var waiting int64
	for _, n := range st.Waiting {
		waiting += n
	}
	var dead int64
	for _, n := range st.DeadLetters {
		dead += n
	}
	fmt.Fprintf(table, "waiting messages\t%d\n", waiting)
	fmt.Fprintf(table, "dead letters\t%d\n", dead)
	for _, m := range st.Masters {
		fmt.Fprintf(table, "master of %s\t%s, last %s\n",
			oneLine(m.Model), title(m), m.Last.Format(time.RFC3339))
		if m.Returns > 0 {
			fmt.Fprintf(table, "\ttwo masters write it: %d of its messages came after those of a "+
				"later one\n", m.Returns)
		}
		if m.Overtaken > 0 {
			fmt.Fprintf(table, "\tit went back: %d changes were refused; relay diff, or relay "+
				"sync --force\n", m.Overtaken)
		}
	}
	for _, v := range st.Verifications {
		fmt.Fprintf(table, "%s of queue %s\t%s\n", oneLine(v.Model), oneLine(v.Queue), proof(v))
	}
	for _, d := range st.Databases {
		fmt.Fprintf(table, "queue %s\tanother database, %s, was found behind it %d times, last "+
			"%s\n",
			oneLine(d.Queue), oneLine(d.Database), d.Times, d.Last.Format(time.RFC3339))
	}
	return table.Flush()
}

// proof says up to when a model was proven equal to its master's.
func proof(v admin.ReplicaVerification) string {
	through := "never proven equal to its master"
	if v.EqualThrough != nil {
		through = "equal through " + v.EqualThrough.Format(time.RFC3339)
	}
	if v.Outcome == admin.VerifiedEqual {
		return through
	}
	text := through + "; at " + v.Ended.Format(time.RFC3339) + " " + v.Outcome
	if len(v.Found) > 0 {
		text += ": " + foundText(v.Found)
	}
	return text
}

func title(m admin.KnownMaster) string {
	title := oneLine(m.Incarnation)
	if title == "" {
		title = "one that does not name itself"
	}
	if !m.Current {
		title += " (before)"
	}
	return title
}
