// Package soak lets a replica run through a bad day: duplicates, reordered and poisoned messages, its database and its
// broker restarted, and asks afterwards whether it equals the master.
//
//	go test ./tests/soak                                                   # some thousand messages, the database crashes once
//	CQRSYNC_SOAK=200000 go test ./tests/soak -run Soak -v -timeout 30m     # minutes; the broker restarts as well
//	CQRSYNC_SOAK_SEED=7 …                                                  # other traffic; the seed is printed
//
// It starts its own PostgreSQL and RabbitMQ from Debian's packages, in temporary directories.
package soak

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

const shortSoak = 6_000

type Order struct {
	ID    int64 `bun:",pk"`
	Total int64
	Note  string
}

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

func TestSoak(t *testing.T) {
	messages := int(setting(t, "CQRSYNC_SOAK", shortSoak))
	seed := setting(t, "CQRSYNC_SOAK_SEED", uint64(time.Now().UnixNano()))
	full := messages > shortSoak
	t.Logf("%d messages, CQRSYNC_SOAK_SEED=%d", messages, seed)

	server := startPostgres(t)
	var broker *rabbitmq
	var address string
	if full {
		broker = startRabbitMQ(t)
		address = broker.url()
	} else {
		address = dbtest.Address(t, dbtest.RabbitMQ)
	}
	s := newSoak(t, server.url(), address)
	stop := s.run()
	tr := newTraffic(t, seed, max(messages/10, 10))
	start := time.Now()
	var early int64
	for i := range messages {
		s.publish(tr.next()...)
		switch i {
		case messages * 3 / 10:
			server.stop("immediate")
			server.start()
		case messages * 6 / 10:
			if broker != nil {
				broker.stop()
				broker.start()
			}
		}
		if i == messages/2 {
			early = rss(t)
		}
	}
	s.publish(tr.rest()...)
	s.flush()
	published := time.Since(start)
	s.requireEquals(tr)
	s.requireDeadLettersAre(tr)
	late := rss(t)
	stats := s.rep.Stats()
	require.NoError(t, stop())
	t.Logf("published in %s, equal after %s; %d poisoned; %+v", published.Round(time.Millisecond),
		time.Since(start).Round(time.Millisecond), tr.poison, stats)
	t.Logf("memory of the process: %d MiB at half of the messages, %d MiB at the end", early>>20, late>>20)
	require.Less(t, late, early+early/2+64<<20, "memory grows")
}

type soak struct {
	t         *testing.T
	db        *bun.DB
	rep       *replica.Replica
	name      string // of queue and exchange
	broker    string
	publisher transport.BatchPublisher
	pending   []transport.Outgoing
}

func newSoak(t *testing.T, databaseURL, broker string) *soak {
	t.Helper()
	ctx := t.Context()
	logger := slog.New(slog.DiscardHandler)
	s := &soak{t: t, name: uniqueName(), broker: broker}
	var err error
	s.db, err = database.Open(databaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.db.Close()) })
	_, err = s.db.ExecContext(ctx, "CREATE TABLE orders (id bigint PRIMARY KEY, total bigint NOT NULL CHECK (total >= 0), note text)")
	require.NoError(t, err)
	s.rep, err = replica.New(s.db, replica.Config{Queue: s.name, Workers: 2, Logger: logger})
	require.NoError(t, err)
	require.NoError(t, s.rep.Migrate(ctx))
	require.NoError(t, replica.Register[Order](s.rep, "order"))
	s.publisher, err = open.Publisher(withExchange(broker, s.name), open.Options{Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.publisher.Close()) })
	t.Cleanup(func() { removeQueue(t, broker, s.name) })
	return s
}

func uniqueName() string { return "cqrsync_soak_" + strconv.FormatInt(time.Now().UnixNano(), 36) }

func (s *soak) run() (stop func() error) { return s.runFrom(s.broker) }

// runFrom runs the replica on messages from a broker's address.
func (s *soak) runFrom(broker string) (stop func() error) {
	subscriber, err := open.Subscriber(withExchange(broker, s.name), s.name, open.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, subscriber.Close()) })
	ctx, cancel := context.WithCancel(s.t.Context())
	result := make(chan error, 1)
	go func() { result <- s.rep.Run(ctx, subscriber) }()
	select {
	case <-s.rep.Running():
	case err := <-result:
		require.NoError(s.t, err)
	case <-time.After(time.Minute):
		require.Fail(s.t, "the replica does not run")
	}
	s.t.Cleanup(cancel)
	return func() error { cancel(); return <-result }
}

const publishedAtOnce = 500

// publish sends messages in order, again and again until the broker has them.
func (s *soak) publish(messages ...*message.Message) {
	for _, msg := range messages {
		s.pending = append(s.pending, transport.Outgoing{Topic: "order", Message: msg})
	}
	if len(s.pending) >= publishedAtOnce {
		s.flush()
	}
}

func (s *soak) flush() {
	deadline := time.Now().Add(3 * time.Minute)
	for len(s.pending) > 0 {
		ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
		errs := s.publisher.PublishBatch(ctx, s.pending)
		cancel()
		var left []transport.Outgoing
		for i, err := range errs {
			if err != nil {
				left = append(left, s.pending[i])
			}
		}
		require.True(s.t, len(left) == 0 || time.Now().Before(deadline), "the broker does not come back: %v", errors.Join(errs...))
		s.pending = left
	}
}

// requireEquals waits until every row of the master, and no other, is there.
func (s *soak) requireEquals(tr *traffic) {
	s.t.Helper()
	want := map[int64]int64{}
	for id, row := range tr.rows {
		if row.live {
			want[id] = row.total
		}
	}
	deadline := time.Now().Add(3 * time.Minute)
	for {
		got := map[int64]int64{}
		var rows []Order
		require.NoError(s.t, s.db.NewSelect().Model(&rows).Scan(s.t.Context()))
		for _, row := range rows {
			got[row.ID] = row.Total
		}
		differences := len(got) - len(want)
		for id, total := range want {
			if theirs, there := got[id]; !there || theirs != total {
				differences++
			}
		}
		if differences == 0 {
			return
		}
		require.True(s.t, time.Now().Before(deadline), "%d of %d rows differ: %+v", differences, len(want), s.rep.Stats())
		<-time.After(100 * time.Millisecond)
	}
}

var poisonNumber = regexp.MustCompile(`poison-(\d+)`)

// requireDeadLettersAre waits until each poisoned message is there, and expects nothing else.
func (s *soak) requireDeadLettersAre(tr *traffic) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.deadLetters()) >= tr.poison }, time.Minute, 100*time.Millisecond)
	require.Len(s.t, s.deadLetters(), tr.poison)
	waiting, err := s.rep.Waiting(s.t.Context())
	require.NoError(s.t, err)
	require.Empty(s.t, waiting)
}

// deadLetters are the numbers of the poisoned messages in the dead letters; one that came twice is there twice.
func (s *soak) deadLetters() map[string]bool {
	var bodies []string
	require.NoError(s.t, s.db.NewRaw("SELECT body FROM replica_dead_letters").Scan(s.t.Context(), &bodies))
	found := map[string]bool{}
	for _, body := range bodies {
		match := poisonNumber.FindStringSubmatch(body)
		require.NotNil(s.t, match, "not poison: %s", body)
		found[match[1]] = true
	}
	return found
}

// rss is the resident memory of this process.
func rss(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	fields := strings.Fields(string(text))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}
