package converge_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// Example shows both sides in one process, over a broker in memory. With package transport/open the
// three functions of Broker are open.Publisher, open.Inbox and open.Subscriber.
func Example() {
	folder, _ := os.MkdirTemp("", "converge")
	defer os.RemoveAll(folder)
	db, _ := database.Open("sqlite://" + filepath.Join(folder, "service.db"))
	defer db.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, quiet := memory.New(), slog.New(slog.DiscardHandler)

	// The master's side, beside its relay (relay.Config.Before: answerer.KeepQueues).
	type Item struct {
		bun.BaseModel `bun:"table:items"`
		outbox.Tracked

		ID int64 `bun:",pk"`
	}
	box, _ := outbox.New(db, outbox.Config{})
	_ = outbox.Register[Item](box, "item")
	_ = box.Migrate(ctx)
	answerer, err := converge.NewAnswerer(box, converge.Broker{
		Publisher: broker.Publisher(),
		Inbox:     func() (message.Subscriber, error) { return broker.Subscriber(""), nil },
		Queue:     func(name string) (converge.Queue, error) { return broker.Subscriber(name), nil },
	}, converge.AnswererConfig{Pace: 50 * time.Millisecond, Logger: quiet})
	if err != nil {
		fmt.Println(err)
		return
	}

	// The replica's side.
	rep, _ := replica.New(db, replica.Config{Queue: "stats", Logger: quiet})
	_ = replica.HandleFunc(rep, "item", func(context.Context, replica.Event[Item]) error { return nil })
	_ = rep.Migrate(ctx)
	reporter, err := converge.NewReporter(rep, broker.Publisher(),
		converge.ReporterConfig{Pace: 50 * time.Millisecond, Logger: quiet})
	if err != nil {
		fmt.Println(err)
		return
	}
	var running sync.WaitGroup
	running.Go(func() { _ = answerer.Run(ctx) })
	running.Go(func() { _ = rep.Run(ctx, broker.Subscriber("stats")) })
	running.Go(func() { _ = reporter.Run(ctx) })

	tables, _ := admin.Open(db, admin.Config{})
	master, _ := tables.Master(ctx)
	for range time.Tick(20 * time.Millisecond) {
		known, _ := master.Replicas(ctx)
		if len(known) > 0 && known[0].LagSeconds != nil {
			fmt.Println(known[0].Queue, "takes", known[0].Models[0].Model, "and is up to date:", *known[0].LagSeconds < 5)
			break
		}
	}
	stop()
	running.Wait()
	// Output: stats takes item and is up to date: true
}
