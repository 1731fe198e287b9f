//go:build unix

package chaos

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// roleVariable makes the test binary one of the processes that are tried: it holds a part.
const roleVariable = "CQRSYNC_CHAOS_ROLE"

// The roles.
const (
	writerRole  = "writer"
	relayRole   = "relay"
	serviceRole = "service" // a writer with a relay in its process, which is handed what it commits
	mirrorRole  = "mirror"  // a replica that mirrors
	effectsRole = "effects" // a replica with a handler that counts
)

// part is what a process is to be.
type part struct {
	Role, Name string
	Database   string // its own: the master's, or the replica's
	Broker     string
	Queue      string // of a replica
	Seed       uint64
}

// play is the whole of such a process. SIGTERM ends it cleanly, and the end of its standard input
// at once, so that none outlives the test.
func play(text string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	var p part
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", p.Name))
		err = p.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", p.Name, err)
		return 1
	}
	return 0
}

func (p part) run(ctx context.Context) (err error) {
	db, err := database.Open(p.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	switch p.Role {
	case writerRole:
		w, err := newWriter(db, p.Name)
		if err != nil {
			return err
		}
		return w.run(ctx, p.Seed)
	case serviceRole:
		w, err := newWriter(db, p.Name)
		if err != nil {
			return err
		}
		both, ctx := errgroup.WithContext(ctx)
		both.Go(func() error { return w.run(ctx, p.Seed) })
		both.Go(func() error { return p.relay(ctx, db, w.box.Handover()) })
		return both.Wait()
	case relayRole:
		return p.relay(ctx, db, nil)
	default:
		return p.replica(ctx, db)
	}
}

func (p part) relay(ctx context.Context, db *bun.DB, handover relay.Handover) (err error) {
	publisher, err := open.Publisher(p.Broker, open.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	rel, err := relay.New(db, publisher, relay.Config{
		ID: p.Name, LeaseTTL: leaseTime, BatchSize: 100, Handover: handover,
	})
	if err != nil {
		return err
	}
	return rel.Run(ctx)
}

func (p part) replica(ctx context.Context, db *bun.DB) (err error) {
	subscriber, err := open.Subscriber(p.Broker, p.Queue, open.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	rep, err := newReplica(db, p.Role, p.Queue)
	if err != nil {
		return err
	}
	return rep.Run(ctx, subscriber)
}

// newReplica makes the replica of either role.
func newReplica(db *bun.DB, role, queue string) (*replica.Replica, error) {
	rep, err := replica.New(db, replica.Config{Queue: queue, Batch: 50, Workers: 2})
	if err != nil {
		return nil, err
	}
	if role == mirrorRole {
		return rep, errors.Join(
			replica.Register[itemCopy](rep, itemModel), replica.Register[entryCopy](rep, entryModel))
	}
	return rep, errors.Join(
		replica.Handle(rep, itemModel, handle), replica.Handle(rep, entryModel, handle))
}

// handle writes down that an event has an effect, and has one: it makes the copy.
func handle(ctx context.Context, tx bun.Tx, event replica.Event[Content]) error {
	k := key{event.Model, event.Key}
	e := &effect{
		Model: k.model, ID: k.id(), Revision: event.Revision, Times: 1,
		Deleted: event.Signal == envelope.Delete, Txn: event.CorrelationID,
	}
	newest := &effect{}
	err := tx.NewSelect().Model(newest).Where("model = ? AND id = ?", e.Model, e.ID).
		OrderExpr("revision DESC").Limit(1).Scan(ctx)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	e.Late = err == nil && newest.Revision > e.Revision
	e.Risen = e.Late && newest.Deleted && !e.Deleted
	result, err := tx.NewUpdate().Model(e).Set("times = times + 1").WherePK().Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		if _, err := tx.NewInsert().Model(e).Exec(ctx); err != nil {
			return err
		}
	}
	event.Data.ID = e.ID
	copied := copyOf(e.Model, event.Data, event.Revision)
	if _, err := tx.NewDelete().Model(copied).WherePK().Exec(ctx); err != nil || e.Deleted {
		return err
	}
	_, err = tx.NewInsert().Model(copied).Exec(ctx)
	return err
}

// copyOf is a replica's row of a model as bun takes it.
func copyOf(model string, c Content, revision int64) any {
	if model == itemModel {
		return &itemCopy{Content: c, Revision: revision}
	}
	return &entryCopy{Content: c, Revision: revision}
}

// one is an error unless a statement changed one row.
func one(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, fmt.Errorf("%d rows changed, want 1", n))
	}
	return nil
}
