package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/transport/open"
)

// settings are where the services keep their data and where they listen.
type settings struct {
	ordersDB, webhooksDB, statsDB string // as in package database
	broker                        string // as in package transport/open
	dir                           string // for the SQLite files of what is not named above
	queuePrefix                   string

	ordersAddr, webhooksAddr, statsAddr, inboxAddr, dashboardAddr string

	tracesURL                    string
	webhooksAllow, webhooksPorts string // as in subscribers.go
	statsConsumers               int
}

// flags are understood before and after a sub-command. Their variables have a prefix that only this
// example uses: those of a real service or relay (CQRSYNC_BROKER, STATS_DB) may stand in the shell
// where somebody tries the demo, which writes.
func (s *settings) flags() []cli.Flag {
	text := func(into *string, name, variable, value, usage string) cli.Flag {
		return &cli.StringFlag{
			Name: name, Sources: cli.EnvVars(variable), Value: value, Usage: usage, Destination: into,
		}
	}
	return []cli.Flag{
		text(&s.ordersDB, "orders-db", "EXAMPLE_ORDERS_DB", "",
			"database of Orders: postgres://… or sqlite://FILE"),
		text(&s.webhooksDB, "webhooks-db", "EXAMPLE_WEBHOOKS_DB", "", "database of Webhooks"),
		text(&s.statsDB, "stats-db", "EXAMPLE_STATS_DB", "", "database of Stats"),
		text(&s.broker, "broker", "EXAMPLE_BROKER", "", "message broker: amqp://…, kafka://…, nats://…, redis://… or sqlite://FILE"),
		text(&s.queuePrefix, "queue-prefix", "EXAMPLE_QUEUE_PREFIX", "",
			"stands before the queues' names, webhooks and stats, where several of these examples "+
				"share a broker"),
		text(&s.dir, "dir", "EXAMPLE_DIR", "",
			"folder for the SQLite files of what has no URL; without it they are temporary and "+
				"removed at the end"),
		text(&s.ordersAddr, "orders-addr", "EXAMPLE_ORDERS_ADDR", "127.0.0.1:8081",
			"where Orders listens"),
		text(&s.webhooksAddr, "webhooks-addr", "EXAMPLE_WEBHOOKS_ADDR", "127.0.0.1:8082",
			"where Webhooks listens"),
		text(&s.statsAddr, "stats-addr", "EXAMPLE_STATS_ADDR", "127.0.0.1:8083", "where Stats listens"),
		text(&s.inboxAddr, "inbox-addr", "EXAMPLE_INBOX_ADDR", "127.0.0.1:8084",
			"where a subscriber to try things with listens, beside all three services"),
		text(&s.dashboardAddr, "dashboard-addr", "EXAMPLE_DASHBOARD_ADDR", "127.0.0.1:9465",
			"where the dashboard listens, beside all three services"),
		text(&s.tracesURL, "traces", "EXAMPLE_TRACES", "",
			"an OpenTelemetry collector that spans are sent to: http://127.0.0.1:4318"),
		text(&s.webhooksAllow, "webhooks-allow", "EXAMPLE_WEBHOOKS_ALLOW", "",
			"networks that subscribers may be in although they are not public: 10.1.0.0/16,127.0.0.1/32"),
		text(&s.webhooksPorts, "webhooks-ports", "EXAMPLE_WEBHOOKS_PORTS", "80,443",
			"ports of subscribers"),
		&cli.IntFlag{Name: "stats-consumers", Sources: cli.EnvVars("EXAMPLE_STATS_CONSUMERS"), Value: 2,
			Destination: &s.statsConsumers,
			Usage:       "how many consumers of its queue Stats runs in this process"},
	}
}

// place is a setting that holds a URL, and the file that stands in for it.
type place struct {
	flag, file string
	url        *string
	check      func(url string) error
}

func (s *settings) places() (ordersDB, webhooksDB, statsDB, broker place) {
	return place{"orders-db", "orders.db", &s.ordersDB, checkDatabase},
		place{"webhooks-db", "webhooks.db", &s.webhooksDB, checkDatabase},
		place{"stats-db", "stats.db", &s.statsDB, checkDatabase},
		place{"broker", "broker.db", &s.broker, checkBroker}
}

// announce says where everything is, before anything is written there.
func (s *settings) announce(out io.Writer, places ...place) {
	for _, p := range places {
		fmt.Fprintf(out, "%-11s  %s\n", p.flag, database.Redact(*p.url))
	}
}

// Opening does not connect: it finds only what is wrong with a URL.

func checkDatabase(url string) error {
	db, err := database.Open(url)
	if err != nil {
		return err
	}
	return db.Close()
}

func checkBroker(url string) error {
	publisher, err := open.Publisher(url, open.Options{})
	if err != nil {
		return err
	}
	return publisher.Close()
}

// inDir puts the places that have no URL into --dir and returns
// everything that is wrong with the others.
func (s *settings) inDir(places ...place) error {
	var errs []error
	for _, p := range places {
		if *p.url != "" {
			if err := p.check(*p.url); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", p.flag, err))
			}
		} else if s.dir != "" {
			*p.url = "sqlite://" + filepath.Join(s.dir, p.file)
		}
	}
	if s.dir != "" {
		if err := os.MkdirAll(s.dir, 0o750); err != nil {
			errs = append(errs, fmt.Errorf("--dir: %w", err))
		}
	}
	return errors.Join(errs...)
}

// shared is inDir for what runs in several processes: each must find what the others find.
func (s *settings) shared(places ...place) error {
	errs := []error{s.inDir(places...), s.brokerLeavesProcess()}
	for _, p := range places {
		if *p.url == "" {
			errs = append(errs, fmt.Errorf(
				"--%s is missing: give its URL, or --dir, the same to every process", p.flag))
		}
	}
	return errors.Join(errs...)
}

func (s *settings) brokerLeavesProcess() error {
	if strings.HasPrefix(s.broker, "memory:") {
		return fmt.Errorf("--broker %s: other processes cannot reach it, want amqp://…, kafka://…, nats://…, redis://… or sqlite://FILE", s.broker)
	}
	return nil
}

// temporary is inDir with a new folder where --dir is missing, which
// cleanup removes. cleanup is never nil.
func (s *settings) temporary(places ...place) (cleanup func() error, err error) {
	cleanup = func() error { return nil }
	missing := func(p place) bool { return *p.url == "" }
	if s.dir == "" && slices.ContainsFunc(places, missing) {
		dir, err := os.MkdirTemp("", "cqrsync-orders-")
		if err != nil {
			return cleanup, fmt.Errorf("folder for the SQLite files: %w", err)
		}
		cleanup = func() error { return os.RemoveAll(dir) }
		s.dir = dir
	}
	return cleanup, s.inDir(places...)
}
