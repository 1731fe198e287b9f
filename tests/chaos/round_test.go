//go:build unix

package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/servers"
)

// round is one trial: databases, an exchange and processes of its own, a plan of faults, and what
// was seen.
type round struct {
	t    *testing.T
	name string
	databases
	broker   *servers.RabbitMQ
	exchange exchange
	ways     map[string]*proxy
	crew     *crew
	master   *bun.DB
	replicas map[string]*bun.DB
	log      io.Writer
	logPath  string

	serverMu sync.Mutex // one server goes at a time
}

// patience is how long replicas may take to become equal once nothing is in their way any more.
const patience = 2 * time.Minute

func newRound(
	t *testing.T, s setup, d databases, broker *servers.RabbitMQ, seed uint64, number int,
) *round {
	t.Helper()
	name := fmt.Sprintf("chaos_%s_%d", s.name, number)
	r := &round{
		t: t, name: name, databases: d, broker: broker, exchange: exchange{broker.URL(), name},
		ways: map[string]*proxy{}, replicas: map[string]*bun.DB{},
	}
	r.openLog(seed)
	r.prepareDatabases()
	require.NoError(t, r.exchange.declare(broker.Address()))
	t.Cleanup(func() { require.NoError(t, r.exchange.remove()) })
	for _, way := range ways {
		target := broker.Address()
		if slices.Contains([]string{writersToDB, relaysToDB, replicasToDB}, way) {
			target = address(t, d.front(name))
		}
		p, err := newProxy(target)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.close()) })
		r.ways[way] = p
	}
	r.crew = &crew{log: r.log, said: map[string]string{}}
	t.Cleanup(func() { require.NoError(t, r.crew.dismiss(s.roles()...)) })
	for _, role := range s.roles() {
		for i := range s.crew[role] {
			r.crew.hire(r.part(role, i, seed))
		}
	}
	return r
}

// openLog opens the file in which the processes complain. It stays where something is wrong, or all
// shall.
func (r *round) openLog(seed uint64) {
	r.t.Helper()
	dir := *logsFlag
	if dir == "" {
		dir = os.TempDir()
	}
	r.logPath = filepath.Join(dir, fmt.Sprintf("cqrsync-%s-seed-%d.log", r.name, seed))
	file, err := os.Create(r.logPath)
	require.NoError(r.t, err)
	r.log = file
	r.t.Cleanup(func() {
		require.NoError(r.t, file.Close())
		if !r.t.Failed() && *logsFlag == "" {
			require.NoError(r.t, os.Remove(r.logPath))
		}
	})
}

func (r *round) databaseOf(role string) string { return r.name + "_" + role }

const masterDatabase = "master"

func (r *round) prepareDatabases() {
	t, ctx := r.t, r.t.Context()
	t.Helper()
	r.create(t, r.databaseOf(masterDatabase), r.databaseOf(mirrorRole), r.databaseOf(effectsRole))
	r.master = dbtest.Open(t, r.url(r.databaseOf(masterDatabase)))
	w, err := newWriter(r.master, "")
	require.NoError(t, err)
	require.NoError(t, w.box.Migrate(ctx))
	require.NoError(t, createTables(ctx, r.master,
		(*item)(nil), (*entry)(nil), (*counter)(nil), (*journalRow)(nil)))
	var counters []counter
	for id := range int64(keysPerModel) {
		counters = append(counters,
			counter{Model: itemModel, ID: id + 1}, counter{Model: entryModel, ID: id + 1})
	}
	_, err = r.master.NewInsert().Model(&counters).Exec(ctx)
	require.NoError(t, err)
	for _, role := range replicaRoles {
		db := dbtest.Open(t, r.url(r.databaseOf(role)))
		r.replicas[role] = db
		rep, err := newReplica(db, role, r.exchange.queue(role))
		require.NoError(t, err)
		require.NoError(t, rep.Migrate(ctx))
		require.NoError(t, createTables(ctx, db, (*itemCopy)(nil), (*entryCopy)(nil), (*effect)(nil)))
	}
}

// part is what the i-th process of a role is to be.
func (r *round) part(role string, i int, seed uint64) part {
	p := part{
		Role: role, Name: role + strconv.Itoa(i), Seed: seed + uint64(i)<<32,
		Queue:    r.exchange.queue(role),
		Database: through(r.t, r.front(r.databaseOf(masterDatabase)), r.ways[writersToDB]),
		Broker:   r.exchange.at(r.ways[relaysToBroker].address()),
	}
	switch role {
	case relayRole:
		p.Database = through(r.t, r.front(r.databaseOf(masterDatabase)), r.ways[relaysToDB])
	case mirrorRole, effectsRole:
		p.Database = through(r.t, r.front(r.databaseOf(role)), r.ways[replicasToDB])
		p.Broker = r.exchange.at(r.ways[replicaToBroker].address())
	}
	return p
}

// run lets the plan happen, and returns when everything is as it should be again.
func (r *round) run(plan []fault) {
	var faults sync.WaitGroup
	start := time.Now()
	for _, f := range plan {
		<-time.After(time.Until(start.Add(f.at)))
		fmt.Fprintf(r.log, "%s: %s\n", time.Now().Format(time.TimeOnly+".000"), f)
		faults.Go(func() { r.cause(f) })
	}
	faults.Wait()
	for _, way := range ways {
		r.ways[way].heal()
	}
}

// repeat lets messages come to the replicas again, until stop is called, which says how many did.
func (r *round) repeat(random *rand.Rand) (stop func() int) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	repeated := make(chan int, 1)
	go func() { repeated <- r.exchange.echoes(ctx, random) }()
	stop = sync.OnceValue(func() int {
		cancel()
		return <-repeated
	})
	r.t.Cleanup(func() { stop() })
	return stop
}

// cause lets one fault happen, and ends it.
func (r *round) cause(f fault) {
	way := r.ways[f.target]
	wait := func() { <-time.After(f.length) }
	switch f.kind {
	case kill:
		posts := r.crew.of(f.target)
		posts[f.pick%len(posts)].kill(f.length)
	case freeze:
		posts := r.crew.of(f.target)
		posts[f.pick%len(posts)].freeze(f.length)
	case cut:
		way.cut()
	case delay:
		way.delay.Store(int64(f.n) * int64(time.Millisecond))
		wait()
		way.delay.Store(0)
	case halfOpen:
		end := way.halfOpen()
		wait()
		end()
	case mute:
		end := way.mute()
		wait()
		end()
	case swallow:
		way.swallow.Store(int64(f.n))
	case drop:
		way.drop.Store(int64(f.n))
	case restart, crash:
		if err := r.bounce(f); err != nil {
			r.t.Errorf("%s: %v", f, err)
		}
	}
}

// bounce stops a server and starts it again.
func (r *round) bounce(f fault) error {
	r.serverMu.Lock()
	defer r.serverMu.Unlock()
	stop, start := r.stop, r.start
	if f.target == brokerServer {
		start = r.broker.Start
		stop = func(crash bool) error {
			if crash {
				return r.broker.Stop(syscall.SIGKILL)
			}
			return r.broker.Stop(syscall.SIGTERM)
		}
	}
	if err := stop(f.kind == crash); err != nil {
		return err
	}
	<-time.After(f.length)
	return start()
}
