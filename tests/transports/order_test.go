package transports_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/tests/natsserver"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
	"github.com/cqrsync/cqrsync/transport/open"
)

// A process that plays roleReplica handles events of the model until its input ends, and writes down which it saw.
const (
	roleReplica     = "replica"
	brokerVariable  = "CQRSYNC_TEST_BROKER"
	queueVariable   = "CQRSYNC_TEST_QUEUE"
	handlerVariable = "CQRSYNC_TEST_HANDLER"

	orderedKeys, orderedRevisions = 5, 201
)

// sighting is an event that a handler saw; number counts them.
type sighting struct {
	bun.BaseModel `bun:"table:sightings"`
	Number        int64  `bun:",pk,autoincrement"`
	Key           string `bun:"entity"`
	Revision      int64
}

type entity struct {
	ID int64 `bun:",pk"`
}

func playReplica() error {
	db, err := database.Open(os.Getenv(fileVariable))
	if err != nil {
		return err
	}
	defer db.Close()
	rep, err := replica.New(db, replica.Config{Queue: os.Getenv(queueVariable), Workers: 4, Window: 50})
	if err != nil {
		return err
	}
	see := func(ctx context.Context, db bun.IDB, e replica.Event[entity]) error {
		_, err := db.NewInsert().Model(&sighting{Key: e.Key, Revision: e.Revision}).Exec(ctx)
		return err
	}
	if os.Getenv(handlerVariable) == "Handle" {
		_ = replica.Handle(rep, sharedTopic, func(ctx context.Context, tx bun.Tx, e replica.Event[entity]) error {
			return see(ctx, tx, e)
		})
	} else {
		_ = replica.HandleFunc(rep, sharedTopic, func(ctx context.Context, e replica.Event[entity]) error { return see(ctx, db, e) })
	}
	subscriber, err := open.Subscriber(os.Getenv(brokerVariable), os.Getenv(queueVariable), open.Options{})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		<-rep.Running()
		fmt.Println("running")
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := rep.Run(ctx, subscriber); err != nil {
		return err
	}
	return subscriber.Close()
}

// Every revision means every revision, with any number of processes at one queue.
func TestHandlersInSeveralProcessesSeeEveryRevision(t *testing.T) {
	for name, broker := range map[string]func(t *testing.T) string{
		"sqlite": func(t *testing.T) string {
			t.Setenv(queueVariable, sharedQueue)
			return "sqlite://" + filepath.Join(t.TempDir(), "broker.db")
		},
		"amqp": func(t *testing.T) string {
			r := newRabbit(t)
			r.queues[r.exchange], r.queues[amqp.DeadLetterQueue(r.exchange)] = true, true // deletes them with the test
			t.Setenv(queueVariable, r.exchange)
			return r.address + "?exchange=" + r.exchange
		},
		"redis": func(t *testing.T) string {
			t.Setenv(queueVariable, sharedQueue)
			return newRedis(t).url("")
		},
		"kafka": func(t *testing.T) string {
			t.Setenv(queueVariable, sharedQueue)
			return newKafka(t).url("")
		},
		"nats": func(t *testing.T) string {
			t.Setenv(queueVariable, sharedQueue)
			return natsserver.New(t).URL()
		},
	} {
		for kind, newURL := range dbtest.Kinds() {
			if (name == "nats" || name == "redis") && kind != "sqlite" {
				continue // the others show that all databases do
			}
			for _, handler := range []string{"Handle", "HandleFunc"} {
				t.Run(name+"/"+kind+"/"+handler, func(t *testing.T) {
					seeEveryRevision(t, broker(t), newURL(t), handler)
				})
			}
		}
	}
}

func seeEveryRevision(t *testing.T, broker, databaseURL, handler string) {
	db := dbtest.Open(t, databaseURL)
	rep, err := replica.New(db, replica.Config{Queue: sharedQueue})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	_, err = db.NewCreateTable().Model((*sighting)(nil)).Exec(t.Context())
	require.NoError(t, err)
	t.Setenv(brokerVariable, broker)
	t.Setenv(handlerVariable, handler)
	for range 3 {
		p := start(t, databaseURL, roleReplica, "")
		require.Equal(t, []string{"running"}, p.next(t, 1))
		defer p.finish(t)
	}
	publisher, err := open.Publisher(broker, open.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, publisher.Close()) }()
	var batch []transport.Outgoing
	for revision := range int64(orderedRevisions) {
		for id := range orderedKeys {
			batch = append(batch, transport.Outgoing{Topic: sharedTopic, Message: ordered(t, id, revision)})
		}
	}
	for _, err := range publisher.PublishBatch(t.Context(), batch) {
		require.NoError(t, err)
	}
	distinct := func() (n int) {
		require.NoError(t, db.NewRaw("SELECT count(*) FROM (SELECT DISTINCT entity, revision FROM sightings) AS s").Scan(t.Context(), &n))
		return n
	}
	require.Eventually(t, func() bool { return distinct() == orderedKeys*orderedRevisions }, 2*time.Minute, 50*time.Millisecond,
		"a handler missed a revision")
	var first []sighting
	require.NoError(t, db.NewRaw("SELECT entity, revision, min(number) AS number FROM sightings GROUP BY entity, revision ORDER BY 3").
		Scan(t.Context(), &first))
	next := map[string]int64{}
	for _, s := range first {
		require.Equal(t, next[s.Key], s.Revision, "key %s is out of order", s.Key)
		next[s.Key]++
	}
	if handler == "Handle" {
		n, err := db.NewSelect().Model((*sighting)(nil)).Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, orderedKeys*orderedRevisions, n, "exactly once")
	}
}

// ordered is a message that knows the one before it.
func ordered(t *testing.T, id int, revision int64) *message.Message {
	t.Helper()
	after := revision - 1
	m := &envelope.Message{
		Signal: envelope.Save, Model: sharedTopic, PK: json.RawMessage(strconv.Itoa(id)), Key: strconv.Itoa(id), Revision: revision,
		Updated: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).Add(time.Duration(revision) * time.Second), After: &after,
	}
	m.Data = envelope.Stamp(json.RawMessage(`{"id":`+strconv.Itoa(id)+`}`), m.Revision, m.Updated)
	body, err := m.Encode()
	require.NoError(t, err)
	out := message.NewMessage(uuid.NewString(), body)
	out.Metadata = m.Metadata()
	return out
}
