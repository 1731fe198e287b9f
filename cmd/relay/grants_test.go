package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

type grantedOrder struct {
	bun.BaseModel `bun:"table:orders"`
	outbox.Tracked

	ID     int64 `bun:",pk,autoincrement"`
	Status string
}

type grantedCopy struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID     int64 `bun:",pk"`
	Status string
}

// roles gives every role of the page's grants a user of its own with those grants and nothing else
// of cqrsync's tables.
func roles(t *testing.T, rawURL string) (as map[string]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/production.md")
	require.NoError(t, err)
	_, grants, found := strings.Cut(string(page), "\n## Grants\n")
	require.True(t, found)
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(grants, -1)
	require.Len(t, blocks, 3)
	owner := dbtest.Open(t, rawURL)
	address, err := url.Parse(rawURL)
	require.NoError(t, err)
	schema := address.Query().Get("search_path")
	as = map[string]string{}
	for _, block := range blocks {
		name := regexp.MustCompile(`TO (\w+);`).FindStringSubmatch(block[1])[1]
		user := fmt.Sprintf("%s_%s", name, schema)
		run := func(statement string) {
			_, err := owner.DB.ExecContext(t.Context(), statement)
			require.NoError(t, err, statement)
		}
		run(fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'granted'", user))
		t.Cleanup(func() {
			_, err := owner.DB.ExecContext(context.Background(), fmt.Sprintf("DROP OWNED BY %s; DROP ROLE %[1]s", user))
			require.NoError(t, err)
		})
		run(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", schema, user))
		run(strings.ReplaceAll(block[1], " TO "+name+";", " TO "+user+";"))
		table := map[string]string{"orders_service": "orders", "stats": "order_copies"}[name]
		if table != "" {
			run(fmt.Sprintf("GRANT ALL ON %s TO %s", table, user))
		}
		if table == "orders" {
			run(fmt.Sprintf("GRANT USAGE ON SEQUENCE orders_id_seq TO %s", user))
		}
		if table == "order_copies" { // a foreign key's own look-up runs as the table's owner, ours does not
			run(fmt.Sprintf("GRANT SELECT ON statuses TO %s", user))
		}
		address.User = url.UserPassword(user, "granted")
		as[name] = address.String()
	}
	return as
}

// refusals is a log in which nobody must be refused anything.
type refusals struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *refusals) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *refusals) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func TestGrantsOfThePageAreEnough(t *testing.T) {
	t.Parallel()
	rawURL := dbtest.PostgresURL(t)
	for _, side := range []string{"outbox", "replica"} {
		r := invoke(t.Context(), "migrate", "--side", side, "--db", rawURL)
		require.Equal(t, exit.Done, r.code, r.stderr)
	}
	_, err := dbtest.Open(t, rawURL).DB.ExecContext(t.Context(), `CREATE TABLE orders (id bigserial PRIMARY KEY, status text NOT NULL);
		CREATE TABLE statuses (status text PRIMARY KEY); INSERT INTO statuses VALUES ('new'), ('paid');
		CREATE TABLE order_copies (id bigint PRIMARY KEY, status text NOT NULL REFERENCES statuses)`)
	require.NoError(t, err)
	as := roles(t, rawURL)
	said := &refusals{}
	log := slog.New(slog.NewTextHandler(said, nil))
	broker := memory.New()

	box, err := outbox.New(dbtest.Open(t, as["orders_service"]), outbox.Config{Logger: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, box.Close()) })
	require.NoError(t, outbox.Register[grantedOrder](box, "order"))
	require.NoError(t, box.Check(t.Context()))
	require.NoError(t, box.Migrate(t.Context()), "nothing to do needs no right to do it")
	copies := dbtest.Open(t, as["stats"])
	rep, err := replica.New(copies, replica.Config{Queue: "stats", Logger: log})
	require.NoError(t, err)
	require.NoError(t, replica.Register[grantedCopy](rep, "order"))

	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		if err := rep.Run(ctx, broker.Subscriber("stats")); err != nil {
			log.Error("replica", "error", err)
		}
	})
	select {
	case <-rep.Running():
	case <-time.After(patience):
		require.FailNow(t, "the replica does not run", said.String())
	}
	rel, err := relay.New(dbtest.Open(t, as["orders_relay"]), broker.Publisher(), relay.Config{Logger: log})
	require.NoError(t, err)
	running.Go(func() {
		if err := rel.Run(ctx); err != nil {
			log.Error("relay", "error", err)
		}
	})
	await := func(what string, done func() bool) {
		t.Helper()
		require.Eventually(t, func() bool { return done() || strings.Contains(said.String(), "denied") }, patience, 10*time.Millisecond, what)
		require.NotContains(t, said.String(), "denied")
	}
	has := func(status string, want int) func() bool {
		return func() bool {
			n, err := copies.NewSelect().Table("order_copies").Where("status = ?", status).Count(t.Context())
			return err == nil && int(n) == want
		}
	}

	order := &grantedOrder{Status: "new"}
	in := func(fn func(ctx context.Context, tx bun.Tx) error) {
		require.NoError(t, box.RunInTx(t.Context(), nil, fn))
	}
	in(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(order).Exec(ctx)
		return err
	})
	in(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&[]grantedOrder{{Status: "new"}, {Status: "new"}, {Status: "bad"}}).Exec(ctx)
		return err
	})
	await("inserts", has("new", 3))
	in(func(ctx context.Context, tx bun.Tx) error {
		_, err := outbox.BulkUpdate[grantedOrder](ctx, tx,
			func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("status = 'new'") },
			func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("status = 'paid'") })
		return err
	})
	await("updates", has("paid", 3))
	in(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewDelete().Model(order).WherePK().Exec(ctx)
		return err
	})
	await("a delete", has("paid", 2))
	_, err = operate.Sync(t.Context(), box, "order", operate.SyncOptions{})
	require.NoError(t, err)
	await("nothing unsent", func() bool {
		status, err := rel.Status(t.Context())
		return err == nil && status.Unsent == 0
	})
	unreadable := &envelope.Message{Signal: envelope.Save, Model: "order", PK: []byte("9")}
	unreadable.Data = envelope.Stamp([]byte(`{"id":"x"}`), 0, unreadable.Updated)
	body, err := unreadable.Encode()
	require.NoError(t, err)
	for _, err := range broker.Publisher().PublishBatch(t.Context(), []transport.Outgoing{{Topic: "order", Message: message.NewMessage("", body)}}) {
		require.NoError(t, err)
	}
	await("a dead letter", func() bool { return rep.Stats().DeadLettered > 0 })
	waiting, err := rep.Waiting(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, waiting, "the order of an unknown status waits")
	_, err = operate.DeletedDiffReplica(t.Context(), rep, "order", &bytes.Buffer{}, operate.Options{})
	require.NoError(t, err)
	for _, line := range []string{"status", "lanes", "dead-letters list", "incarnation", "dead-letters retry --all"} {
		r := invoke(t.Context(), append(strings.Fields(line), "--db", as["orders_relay"])...)
		require.NotContains(t, r.stderr, "denied", line)
	}
	for _, line := range []string{"status --side replica", "dead-letters list --side replica"} {
		r := invoke(t.Context(), append(strings.Fields(line), "--db", as["stats"])...)
		require.NotContains(t, r.stderr, "denied", line)
	}
	require.NotContains(t, said.String(), "denied")
}
