package diagnosis_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func ExampleRead() {
	dir, err := os.MkdirTemp("", "diagnosis")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := database.Open("sqlite://" + filepath.Join(dir, "orders.db"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = db.Close() }()
	tables, err := admin.Open(db, admin.Config{})
	if err != nil {
		panic(err)
	}
	if _, err := tables.Migrate(context.Background(), admin.OutboxSide); err != nil {
		panic(err)
	}
	state := diagnosis.Read(context.Background(), tables, diagnosis.Config{})
	fmt.Println(state.Sentence)
	for _, t := range state.Troubles {
		fmt.Println(t.Do, "See", t.Runbook)
	}
	// Output:
	// No relay runs.
	// Start `relay run`. What waits is sent then. See docs/operations.md#no-relay
}

// A service that embeds a relay says beside it what that waits for: nobody else can know.
func ExampleTell() {
	dir, err := os.MkdirTemp("", "diagnosis")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := database.Open("sqlite://" + filepath.Join(dir, "orders.db"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = db.Close() }()
	tables, err := admin.Open(db, admin.Config{})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	if _, err := tables.Migrate(ctx, admin.OutboxSide); err != nil {
		panic(err)
	}
	rel, err := relay.New(db, memory.New().Publisher(), relay.Config{
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = rel.Run(ctx) })
	running.Go(func() {
		diagnosis.Tell(ctx, tables, "the relay "+rel.ID(), func() (all []admin.Outage) {
			for _, o := range rel.Outages() {
				all = append(all, admin.Outage{What: o.What, Since: o.Since, Error: o.Err.Error()})
			}
			return all
		}, nil)
	})
	<-rel.Running()
	fmt.Println(diagnosis.Read(ctx, tables, diagnosis.Config{}).Sentence)
	stop()
	running.Wait()
	// Output:
	// Everything is moving. No replica has reported.
}
