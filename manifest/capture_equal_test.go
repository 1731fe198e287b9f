package manifest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

const gadgets = `CREATE TABLE gadgets (id bigint PRIMARY KEY, name text NOT NULL, size int, price numeric(12,2), at timestamptz, tags jsonb)`

// Gadget is the same table for a service in Go.
type Gadget struct {
	bun.BaseModel `bun:"table:gadgets"`
	outbox.Tracked

	ID    int64 `bun:",pk"`
	Name  string
	Size  *int64
	Price *string
	At    *time.Time
	Tags  map[string]any `bun:"type:jsonb"`
}

// deed is a write that both captures are given: by bun, or as plain SQL.
type deed struct {
	verb   string
	gadget Gadget
}

// randomDeeds are those of one transaction. exists says which keys have rows, before and after.
func randomDeeds(random *rand.Rand, exists map[int64]bool) (all []deed) {
	for range 1 + random.IntN(5) {
		g := Gadget{ID: 1 + random.Int64N(6), Name: fmt.Sprintf("gadget's %d", random.IntN(1000)), Tags: map[string]any{"n": random.IntN(9)}}
		if random.IntN(2) == 0 {
			size, price := random.Int64N(100), fmt.Sprintf("%d.%02d", random.IntN(1000), random.IntN(100))
			at := time.Unix(random.Int64N(2e9), random.Int64N(1e6)*1000).UTC()
			g.Size, g.Price, g.At = &size, &price, &at
		}
		verb := []string{"upsert", "update", "delete"}[random.IntN(3)]
		if !exists[g.ID] {
			verb = "insert"
		}
		exists[g.ID] = verb != "delete"
		all = append(all, deed{verb, g})
	}
	return all
}

func (d deed) run(ctx context.Context, tx bun.Tx) error {
	var err error
	switch d.verb {
	case "insert":
		_, err = tx.NewInsert().Model(&d.gadget).Exec(ctx)
	case "upsert":
		_, err = tx.NewInsert().Model(&d.gadget).On("CONFLICT (id) DO UPDATE").Set("name = EXCLUDED.name").
			Set("size = EXCLUDED.size").Set("price = EXCLUDED.price").Set("at = EXCLUDED.at").Set("tags = EXCLUDED.tags").Exec(ctx)
	case "update":
		_, err = tx.NewUpdate().Model(&d.gadget).WherePK().Exec(ctx)
	default:
		_, err = tx.NewDelete().Model(&d.gadget).WherePK().Exec(ctx)
	}
	return err
}

// The same transactions, through the capture of bun and past it, under triggers, make equal outboxes:
// model, key, revision, signal and data. (They differ where bun cannot know: behind a rollback
// to a savepoint it sends once more what was written there; and a key that an upsert makes may be
// older than cqrsync, so it starts at 1.)
func TestBothCapturesMakeEqualOutboxes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	conn := dbtest.Open(t, dbtest.PostgresURL(t))
	db{conn.DB}.exec(t, gadgets)
	box, err := outbox.New(conn, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Gadget](box, "gadget"))
	require.NoError(t, box.Migrate(t.Context()))
	c := capturedOn(t, gadgets, "models: {gadget: {table: gadgets}}")

	random, exists := rand.New(rand.NewPCG(seed, 1)), map[int64]bool{}
	plain := bun.NewDB(c.db.DB, c.db.Dialect())
	for range 60 {
		deeds := randomDeeds(random, exists)
		all := func(ctx context.Context, tx bun.Tx) error {
			for _, d := range deeds {
				if err := d.run(ctx, tx); err != nil {
					return err
				}
			}
			return nil
		}
		require.NoError(t, box.RunInTx(t.Context(), nil, all))
		require.NoError(t, plain.RunInTx(outbox.Explicit(t.Context()), nil, all)) // Gadget's own hook looks for a box
	}
	want := captured{T: t, db: conn}
	db{conn.DB}.exec(t, "CREATE TABLE outbox_marks (id int)")
	bunned, triggered := want.all(), c.all()
	require.Equal(t, len(bunned), len(triggered))
	require.Equal(t, want.lanes(), c.lanes())
	for i, m := range bunned {
		require.Equal(t, [4]any{m.Model, m.Key, m.Revision, m.Signal},
			[4]any{triggered[i].Model, triggered[i].Key, triggered[i].Revision, triggered[i].Signal})
		require.Equal(t, m.After, triggered[i].After)
		require.JSONEq(t, m.Data, triggered[i].Data)
	}
}

// lanes are those of the messages, by their keys.
func (c captured) lanes() []string {
	c.Helper()
	var lanes []string
	require.NoError(c, c.db.NewRaw("SELECT DISTINCT key || ': ' || lane FROM outbox_messages ORDER BY 1").Scan(c.Context(), &lanes))
	return lanes
}

// Writers whose connections are killed at any moment leave one message for each committed
// transaction and key, and none for the others.
func TestTriggersLoseNothingWhenWritersAreKilled(t *testing.T) {
	url := dbtest.PostgresURL(t)
	c := uncapturedAt(t, url, `CREATE TABLE orders (id bigint PRIMARY KEY, status text); CREATE TABLE journal (order_id bigint)`,
		"models: {order: {table: orders}}")
	c.install()
	mortal := fmt.Sprintf("mortal_%x", rand.Uint64()) // nobody else's connections are to be killed
	victims := captured{T: t, db: dbtest.Open(t, url+"&application_name="+mortal)}
	c.run("INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 8) AS n")
	c.take()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 5))
			for ctx.Err() == nil {
				first, second := random.IntN(8)+1, random.IntN(8)+1
				first, second = min(first, second), max(first, second)
				statements := []string{fmt.Sprintf("UPDATE orders SET status = '%d' WHERE id = %d", random.Uint32(), first)}
				if second > first {
					statements = append(statements, fmt.Sprintf("UPDATE orders SET status = '%d' WHERE id = %d", random.Uint32(), second))
				}
				_ = victims.try(append(statements, fmt.Sprintf("INSERT INTO journal SELECT DISTINCT unnest(ARRAY[%d, %d])", first, second))...)
			}
		})
	}
	killed := 0
	for ctx.Err() == nil {
		var n int
		err := c.db.NewRaw(`SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
			WHERE application_name = ? AND state <> 'idle' ORDER BY random() LIMIT 1) AS one`, mortal).Scan(context.WithoutCancel(ctx), &n)
		require.NoError(t, err)
		killed += n
	}
	writers.Wait()
	require.Positive(t, killed)
	var wrong []string
	require.NoError(t, c.db.NewRaw(`SELECT coalesce(j.id, m.id) || ': ' || coalesce(j.n, 0) || ' and ' || coalesce(m.n, 0) FROM
		(SELECT order_id::text AS id, count(*) AS n FROM journal GROUP BY 1) AS j FULL JOIN
		(SELECT key AS id, count(*) AS n FROM outbox_messages GROUP BY 1) AS m ON j.id = m.id
		WHERE j.n IS DISTINCT FROM m.n`).Scan(t.Context(), &wrong))
	require.Empty(t, wrong, "commits and messages of a key, %d killed", killed)
}
