package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport/open"
)

// The environment of a relay process of this bench.
const (
	orderDatabase = "CQRSYNC_BENCH_RELAY_DB"
	orderBroker   = "CQRSYNC_BENCH_RELAY_BROKER"
)

const (
	orderKeys      = 10_000
	orderRevisions = 20
	orderLease     = 2 * time.Second
)

// benchRelayOrder looks at what a queue receives while relays join, are
// killed, and are stopped and continued.
func benchRelayOrder(ctx context.Context, o options, report func(result)) (err error) {
	address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
	if address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	g := group{
		bench: "relay-order", unit: "messages", of: "written",
		name: "4 relays, one joining, one killed, one stopped and continued; 10,000 keys × 20 " +
			"revisions, Zipf, of which every other key's may be replaced",
		cases: []benchCase{{name: "written"}, {name: "inversions"}, {name: "lost"}, {name: "duplicates"}},
	}
	r := result{group: g, values: map[string][]float64{}}
	for round := range o.rounds {
		fmt.Fprintf(o.progress, "\r\x1b[Krelay-order: round %d of %d", round+1, o.rounds)
		got, err := orderRound(ctx, publishBench{address: address, kind: "classic"})
		if err != nil {
			return err
		}
		for name, value := range got {
			r.values[name] = append(r.values[name], value)
		}
	}
	fmt.Fprint(o.progress, "\r\x1b[K")
	report(r)
	return nil
}

func orderRound(ctx context.Context, p publishBench) (got map[string]float64, err error) {
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	s, err := mastertest.New(db)
	if err != nil {
		return nil, err
	}
	if err := s.Make(ctx); err != nil {
		return nil, err
	}
	var schema string
	if err := db.NewRaw("SELECT current_schema()").Scan(ctx, &schema); err != nil {
		return nil, err
	}
	url, err := withParameters(os.Getenv(dbtest.Variable(dbtest.Postgres)),
		map[string]string{"search_path": schema})
	if err != nil {
		return nil, err
	}
	_, err = p.rate(anyNumber, func(ctx context.Context, at publishPlace) error {
		broker, err := withParameters(p.address, map[string]string{"exchange": at.exchange})
		if err == nil {
			got, err = orderTrial(ctx, s, url, broker, p.address, at)
		}
		return err
	})(ctx)
	return got, err
}

// orderTrial writes while the relays come and go, and counts what the queue received.
func orderTrial(
	ctx context.Context, s *mastertest.Outbox, url, broker, address string, at publishPlace,
) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	received := make(chan *orderLog, 1)
	work, ctx := errgroup.WithContext(ctx)
	written := make(chan int, 1)
	work.Go(func() error {
		n, err := writeZipf(ctx, s)
		written <- n
		return err
	})
	work.Go(func() error {
		seen, err := consumeOrder(ctx, address, at, written)
		received <- seen
		return err
	})
	work.Go(func() error { return comeAndGo(ctx, url, broker) })
	if err := work.Wait(); !errors.Is(err, errAllThere) {
		return nil, err
	}
	return (<-received).counts(), nil
}

// comeAndGo starts three relays, then a fourth; kills one; stops one past its lease and continues
// it. The rest is left to them until the queue has everything.
func comeAndGo(ctx context.Context, url, broker string) (err error) {
	var children []*exec.Cmd
	defer func() {
		for _, child := range children {
			_ = child.Process.Kill() // those that are left have nothing more to do
			_ = child.Wait()
		}
	}()
	start := func() error {
		child, err := startOrderRelay(ctx, url, broker)
		if err == nil {
			children = append(children, child)
		}
		return err
	}
	for range 3 {
		if err := start(); err != nil {
			return err
		}
	}
	steps := []func() error{
		start,
		func() error { return children[0].Process.Kill() },
		func() error { return children[1].Process.Signal(servers.Freeze) },
		func() error { return pause(ctx, 2*orderLease) },
		func() error { return children[1].Process.Signal(servers.Thaw) },
	}
	for _, step := range steps {
		if err := errors.Join(pause(ctx, time.Second), step()); err != nil {
			return err
		}
	}
	<-ctx.Done() // ends when the consumer has seen everything, or the time is over
	if errors.Is(context.Cause(ctx), errAllThere) {
		return nil
	}
	return context.Cause(ctx)
}

func startOrderRelay(ctx context.Context, url, broker string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	child := exec.CommandContext(ctx, path)
	child.Env = append(os.Environ(), orderDatabase+"="+url, orderBroker+"="+broker)
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	_, err = bufio.NewReader(stdout).ReadString('\n')
	return child, err
}

// orderRelay is a relay process.
func orderRelay(url, broker string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	db, err := database.Open(url)
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	publisher, err := open.Publisher(broker, open.Options{Logger: quiet})
	if err != nil {
		return err
	}
	rel, err := relay.New(db, publisher, relay.Config{LeaseTTL: orderLease, Logger: quiet})
	if err != nil {
		return err
	}
	fmt.Println("here")
	return rel.Run(ctx)
}

// writeZipf writes every key's revisions, the hot keys' first, in
// transactions of 50 from four writers.
func writeZipf(ctx context.Context, s *mastertest.Outbox) (int, error) {
	const writers, perTransaction = 4, 50
	work, ctx := errgroup.WithContext(ctx)
	for writer := range writers {
		work.Go(func() error {
			source := rand.New(rand.NewPCG(uint64(writer), 7))
			zipf := rand.NewZipf(source, 1.1, 10, orderKeys/writers-1)
			left := map[int]int{} // revisions to come, by key: each writer has keys of its own
			for key := range orderKeys / writers {
				left[key] = orderRevisions
			}
			next := 0
			for len(left) > 0 {
				chosen := map[int]bool{}
				for range perTransaction {
					key := int(zipf.Uint64())
					for ; left[key] == 0; key = next { // it has had its share
						next = (next + 1) % (orderKeys / writers)
						if len(left) <= len(chosen) {
							break
						}
					}
					if left[key] > 0 {
						chosen[key] = true
					}
				}
				if err := writeOrderKeys(ctx, s, chosen, writers, writer); err != nil {
					return err
				}
				for key := range chosen {
					if left[key]--; left[key] == 0 {
						delete(left, key)
					}
				}
			}
			return nil
		})
	}
	return orderKeys * orderRevisions, work.Wait()
}

func writeOrderKeys(
	ctx context.Context, s *mastertest.Outbox, chosen map[int]bool, writers, writer int,
) error {
	return s.DB().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		var changes []ledger.Change
		for key := range chosen {
			changes = append(changes, ledger.Change{
				Key: queue.Key{Model: "order", Key: strconv.Itoa(key*writers + writer)},
			})
		}
		revisions, err := s.Lock(ctx, tx, changes)
		if err != nil {
			return err
		}
		var messages []queue.Message
		for key, r := range revisions {
			messages = append(messages, queue.Message{
				Model: key.Model, Key: key.Key, Revision: r.Revision, After: r.After,
				Signal: "SAVE", Updated: r.Updated, Keep: kept(key.Key),
				PK: json.RawMessage(key.Key), Data: json.RawMessage(`{"id":` + key.Key + `}`),
			})
		}
		return s.Append(ctx, tx, messages, nil)
	})
}

// kept says of a key that every revision of it leaves. Of the others the newest one must.
func kept(key string) bool { return (key[len(key)-1]-'0')%2 == 0 }
