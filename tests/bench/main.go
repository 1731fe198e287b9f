// Command bench compares what cqrsync does with what one would write by hand or take instead.
// Absolute figures move by tens of percent with the machine, so every case of a comparison runs in
// the same minutes, round by round, and the result is a ratio with its spread.
//
//	go run ./tests/bench --list
//	go run ./tests/bench write
//	go run ./tests/bench --json write     # a line per case
//
// Services are found as the tests find them: CQRSYNC_TEST_POSTGRES,
// CQRSYNC_TEST_RABBITMQ. It ends by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// A bench compares cases; it hands each group to run as soon as it is measured.
type bench struct {
	name  string
	about string
	run   func(ctx context.Context, o options, report func(result)) error
}

type options struct {
	rounds   int
	only     string
	duration time.Duration
	rows     int
	broker   string // URL of one other than RabbitMQ; empty for that
	progress io.Writer
}

func benches() []bench {
	return []bench{
		{"write", "transactions per second: business statement / with a hand-written outbox " +
			"insert / with cqrsync", benchWrite},
		{"publish", "messages per second to RabbitMQ, all confirmed: raw amqp091 / ours / " +
			"watermill-amqp", benchPublish},
		{"latency", "milliseconds from commit to a RabbitMQ consumer: hand-written publish after " +
			"commit / cqrsync", benchLatency},
		{"relay-engine", "the relay without a broker / a hand-written loop on pgx that fetches " +
			"and deletes", benchRelayEngine},
		{"diff", "rows per second: a plain loop over both ledgers / diff-master | diff-replica",
			benchDiff},
		{"verify", "rows per second: a plain loop over both ledgers / a verification over a " +
			"broker; bytes beside diff", benchVerify},
		{"dump-load", "rows per second: COPY out and in / dump | load through the gate", benchDumpLoad},
		{"replica", "messages per second from RabbitMQ into PostgreSQL: one by one / cqrsync / a " +
			"hand-written ideal; and the delay", benchReplica},
		{"backfill", "rows per second of a backfill PostgreSQL → RabbitMQ → PostgreSQL / the " +
			"ideal of replica; and what it costs live changes", benchBackfill},
		{"relay", "a backlog from PostgreSQL to RabbitMQ: raw publisher alone / 1, 2 and 4 relays " +
			"/ Watermill forwarder", benchRelay},
		{"relay-held", "a large backlog, with and without a snapshot held open by another session",
			benchRelayHeld},
		{"relay-order", "what a queue receives while relays join, are killed, stopped and " +
			"continued", benchRelayOrder},
		{"embedded", "the broker in a SQLite file / RabbitMQ: delay, throughput, and what it " +
			"costs when idle", benchEmbedded},
		{"traces", "a transaction, a relay and a replica without module otel / with it, nothing " +
			"sampled", benchTraces},
		{"delay", "a backlog to RabbitMQ, and from there into PostgreSQL: beside each other / 20 and " +
			"100 ms away from both", benchDelay},
		{"compaction", "a backlog of many revisions of few keys: every revision / the newest of " +
			"each key", benchCompaction},
	}
}

func main() {
	if url := os.Getenv(orderDatabase); url != "" {
		if err := orderRelay(url, os.Getenv(orderBroker)); err != nil {
			fmt.Fprintln(os.Stderr, "relay:", err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parseAnywhere takes flags before, between and after the names, which it returns:
// package flag ends at the first name.
func parseAnywhere(flags *flag.FlagSet, args []string) (names []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) == 0 {
			return names, nil
		}
		names, args = append(names, args[0]), args[1:]
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	list := flags.Bool("list", false, "list the benches")
	asJSON := flags.Bool("json", false, "print a JSON line per case instead of a table")
	o := options{progress: stderr}
	flags.IntVar(&o.rounds, "rounds", 5, "how often each case runs")
	flags.StringVar(&o.only, "only", "", "measure only the groups whose name contains this")
	flags.DurationVar(&o.duration, "duration", 1500*time.Millisecond,
		"how long a case runs in a round, where it is timed by duration")
	flags.IntVar(&o.rows, "rows", 1_000_000,
		"how many rows the tables have, where a case reads a table")
	flags.StringVar(&o.broker, "broker", "",
		"nats://, redis:// or kafka:// URL that publish, relay and replica use in place of RabbitMQ")
	names, err := parseAnywhere(flags, args)
	if err != nil {
		return err
	}
	if *list {
		for _, b := range benches() {
			fmt.Fprintf(stdout, "%-14s %s\n", b.name, b.about)
		}
		return nil
	}
	if len(names) == 0 {
		return errors.New("name a bench, or --list")
	}
	var errs []error
	elsewhere := map[string]func(context.Context, options, func(result)) error{
		"publish": benchPublishTo, "relay": benchRelayTo, "replica": benchReplicaFrom,
	}
	for _, name := range names {
		if o.broker != "" && elsewhere[name] == nil {
			errs = append(errs, fmt.Errorf("%s knows no --broker: publish, relay and replica do", name))
		}
		i := slices.IndexFunc(benches(), func(b bench) bool { return b.name == name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("unknown bench %q: --list names them", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, b := range benches() {
		if !slices.Contains(names, b.name) {
			continue
		}
		print := func(r result) { r.table(stdout) }
		if *asJSON {
			print = func(r result) { r.json(stdout) }
		} else {
			fmt.Fprintf(stdout, "%s: %s\n%s\n", b.name, b.about, strings.Repeat("-", 100))
		}
		if o.broker != "" {
			b.run = elsewhere[b.name]
		}
		if err := b.run(ctx, o, print); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}
