//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

const (
	roleVariable   = "CQRSYNC_EMBEDDED_ROLE"   // writer, relay, or the name of a replica
	folderVariable = "CQRSYNC_EMBEDDED_FOLDER" // of the databases
	brokerVariable = "CQRSYNC_EMBEDDED_BROKER" // a URL
	rateVariable   = "CQRSYNC_EMBEDDED_RATE"   // changes a second of a writer

	keys = 300
)

// Item is a row of the master.
type Item struct {
	bun.BaseModel `bun:"table:items"`
	outbox.Tracked

	ID   int64 `bun:",pk"`
	N    int64
	Text string
}

// Copy is the same on a replica.
type Copy struct {
	bun.BaseModel `bun:"table:items"`

	ID   int64 `bun:",pk"`
	N    int64
	Text string
}

func masterURL(folder string) string { return "sqlite://" + filepath.Join(folder, "master.db") }
func replicaURL(folder, name string) string {
	return "sqlite://" + filepath.Join(folder, name+".db")
}

// play is a process. It ends with SIGTERM.
func play(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	folder, broker := os.Getenv(folderVariable), os.Getenv(brokerVariable)
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("role", role)
	var err error
	switch role {
	case "writer":
		err = write(ctx, masterURL(folder))
	case "relay":
		err = publish(ctx, masterURL(folder), broker, logger)
	default:
		err = replicate(ctx, replicaURL(folder, role), role, broker, logger)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func openBox(ctx context.Context, url string) (*bun.DB, *outbox.Box, error) {
	db, err := database.OpenExisting(url)
	if err != nil {
		return nil, nil, err
	}
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return nil, nil, err
	}
	return db, box, errors.Join(outbox.Register[Item](box, "item"), box.Check(ctx))
}

// write changes rows at a rate, several goroutines at once, and says how many transactions committed.
func write(ctx context.Context, url string) error {
	_, box, err := openBox(ctx, url)
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(os.Getenv(rateVariable))
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	failed := make(chan error)
	work := make(chan struct{})
	for range 4 {
		go func() {
			for range work {
				if err := change(ctx, box); err != nil {
					failed <- err
					return
				}
				fmt.Println("committed")
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
			select {
			case work <- struct{}{}:
			case <-ctx.Done():
			case err := <-failed:
				return err
			}
		}
	}
}

// change writes a few rows, and deletes one now and then.
func change(ctx context.Context, box *outbox.Box) error {
	return box.RetryInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		id := rand.Int64N(keys)
		if rand.IntN(10) == 0 {
			_, err := tx.NewDelete().Model(&Item{ID: id}).WherePK().Exec(ctx)
			return err
		}
		item := &Item{ID: id, N: rand.Int64(), Text: fmt.Sprintf("%0100d", rand.Int64())}
		_, err := tx.NewInsert().Model(item).On("CONFLICT (id) DO UPDATE").Set("n = EXCLUDED.n, text = EXCLUDED.text").Exec(ctx)
		return err
	})
}

func publish(ctx context.Context, url, broker string, logger *slog.Logger) error {
	db, err := database.OpenExisting(url)
	if err != nil {
		return err
	}
	publisher, err := open.Publisher(broker, open.Options{Logger: logger})
	if err != nil {
		return err
	}
	rel, err := relay.New(db, publisher, relay.Config{Logger: logger, LeaseTTL: 4 * time.Second})
	if err != nil {
		return err
	}
	return errors.Join(rel.Run(ctx), publisher.Close(), db.Close())
}

func replicate(ctx context.Context, url, name, broker string, logger *slog.Logger) error {
	db, rep, err := openReplica(url, name, logger)
	if err != nil {
		return err
	}
	subscriber, err := open.Subscriber(broker, name, open.Options{Logger: logger})
	if err != nil {
		return err
	}
	go func() {
		<-rep.Running()
		fmt.Println("running")
	}()
	return errors.Join(rep.Run(ctx, subscriber), subscriber.Close(), db.Close())
}

func openReplica(url, name string, logger *slog.Logger) (*bun.DB, *replica.Replica, error) {
	db, err := database.OpenExisting(url)
	if err != nil {
		return nil, nil, err
	}
	rep, err := replica.New(db, replica.Config{Queue: name, Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	return db, rep, replica.Register[Copy](rep, "item")
}
