package answers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// kinds are the databases, as master and as replica.
var kinds = []string{"postgres", "mariadb", "sqlite"}

var quiet = slog.New(slog.DiscardHandler)

// eachPair runs test for every master and replica.
func eachPair(t *testing.T, test func(t *testing.T, master, copies string)) {
	for _, master := range kinds {
		for _, copies := range kinds {
			t.Run(master+" to "+copies, func(t *testing.T) {
				t.Parallel()
				test(t, master, copies)
			})
		}
	}
}

// pipeline is a master, a relay, a broker and a replica.
type pipeline struct {
	*testing.T
	kind, copiesKind string
	master, copies   *bun.DB
	box              *outbox.Box
	rep              *replica.Replica
}

// databases opens two empty ones and makes tables in them.
func databases(t *testing.T, master, copies string, onMaster, onCopies []string) *pipeline {
	t.Helper()
	p := &pipeline{T: t, kind: master, copiesKind: copies}
	p.master = dbtest.Open(t, dbtest.Kinds()[master](t))
	p.copies = dbtest.Open(t, dbtest.Kinds()[copies](t))
	for _, statement := range onMaster {
		p.exec(p.master, statement)
	}
	for _, statement := range onCopies {
		p.exec(p.copies, statement)
	}
	return p
}

// start runs relay and replica until the test ends.
func (p *pipeline) start(box *outbox.Box, rep *replica.Replica) {
	p.Helper()
	p.box, p.rep = box, rep
	require.NoError(p, box.Migrate(p.Context()))
	require.NoError(p, rep.Migrate(p.Context()))
	broker := "memory:" + strings.NewReplacer("/", "-", " ", "-").Replace(p.Name())
	o := open.Options{Logger: quiet}
	publisher, err := open.Publisher(broker, o)
	require.NoError(p, err)
	subscriber, err := open.Subscriber(broker, rep.Queue(), o)
	require.NoError(p, err)
	rel, err := relay.New(p.master, publisher, relay.Config{
		PollInterval: 20 * time.Millisecond, Logger: quiet,
	})
	require.NoError(p, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.Context()))
	var running sync.WaitGroup
	ended := make(chan error, 2)
	running.Go(func() { ended <- rep.Run(ctx, subscriber) })
	select {
	case <-rep.Running():
	case err := <-ended:
		cancel()
		require.FailNow(p, "the replica has ended", "%v", err)
	case <-time.After(time.Minute):
		cancel()
		require.FailNow(p, "the replica does not run")
	}
	running.Go(func() { ended <- rel.Run(ctx) })
	p.Cleanup(func() {
		cancel()
		running.Wait()
		require.NoError(p, subscriber.Close())
		require.NoError(p, publisher.Close())
	})
}

func (p *pipeline) exec(db *bun.DB, statement string, args ...any) {
	p.Helper()
	_, err := db.ExecContext(p.Context(), statement, args...)
	require.NoError(p, err, statement)
}

// sync sends all rows of a model.
func (p *pipeline) sync(model string) {
	p.Helper()
	_, err := operate.Sync(p.Context(), p.box, model, operate.SyncOptions{})
	require.NoError(p, err)
}

// diff compares the content; repair says whether it may do something about it.
func (p *pipeline) diff(model string, repair bool) operate.Result {
	p.Helper()
	result, err := operate.Diff(p.Context(), p.box, p.rep, model, io.Discard, operate.DiffOptions{
		Content: true, CheckOnly: !repair,
		Options: operate.Options{MaxDeletes: 10}, // tables of two rows, of which one is too many
	})
	require.NoError(p, err)
	return result
}

// becomesEqual waits until diff finds nothing.
func (p *pipeline) becomesEqual(model string, otherwise ...func()) {
	p.Helper()
	var result operate.Result
	p.eventually(func() bool {
		result = p.diff(model, false)
		return result.Equal()
	}, func() string {
		var differing bytes.Buffer
		_, _ = operate.Diff(p.Context(), p.box, p.rep, model, &differing, operate.DiffOptions{Content: true, CheckOnly: true})
		for _, explain := range otherwise {
			explain()
		}
		letters := p.rep.DeadLetters()
		waiting, _ := p.rep.Waiting(p.Context())
		return fmt.Sprintf("%+v\n%s\ndead letters %v, waiting %v\n%v", result, differing.String(), letters, waiting, p.reasons())
	})
}

// reasons are why messages were not applied.
func (p *pipeline) reasons() (all []string) {
	p.Helper()
	for _, table := range []string{"replica_dead_letters", "replica_waiting"} {
		var some []string
		require.NoError(p, p.copies.NewRaw("SELECT error FROM ?", bun.Ident(table)).Scan(p.Context(), &some))
		all = append(all, some...)
	}
	return all
}

func (p *pipeline) eventually(done func() bool, otherwise func() string) {
	p.Helper()
	const patience = 20 * time.Second
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			require.FailNow(p, "it does not come to pass", otherwise())
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-p.Context().Done():
			timer.Stop()
			require.FailNow(p, "interrupted")
		}
	}
}
