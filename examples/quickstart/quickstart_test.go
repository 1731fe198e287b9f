package quickstart_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/examples/quickstart"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMasterReachesReplica(t *testing.T) {
	dir := t.TempDir()
	broker := "sqlite://" + dir + "/broker.db"
	masterDB, err := database.Open("sqlite://" + dir + "/orders.db")
	require.NoError(t, err)
	defer masterDB.Close()
	replicaDB, err := database.Open("sqlite://" + dir + "/stats.db")
	require.NoError(t, err)
	defer replicaDB.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = masterDB.NewCreateTable().Model((*quickstart.Order)(nil)).Exec(ctx)
	require.NoError(t, err)
	box := migrated(t, masterDB)
	rep, err := replica.New(replicaDB, replica.Config{Queue: "stats"})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(ctx))
	_, err = replicaDB.NewCreateTable().Model((*quickstart.OrderCopy)(nil)).Exec(ctx)
	require.NoError(t, err)

	running, stop := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return quickstart.Replica(running, replicaDB, broker) })

	require.NoError(t, quickstart.Master(ctx, masterDB))
	publisher, err := open.Publisher(broker+"?mandatory=true", open.Options{}) // waits for the replica's queue
	require.NoError(t, err)
	rel, err := relay.New(masterDB, publisher, relay.Config{})
	require.NoError(t, err)
	group.Go(func() error { return rel.Run(running) })

	var copies []quickstart.OrderCopy
	require.Eventually(t, func() bool {
		return replicaDB.NewSelect().Model(&copies).Scan(ctx) == nil && len(copies) == 1
	}, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, quickstart.OrderCopy{ID: 1, Status: "new"}, copies[0])

	group.Go(func() error { return box.RunSweep(running, 0) })
	_, err = masterDB.DB.ExecContext(ctx, "UPDATE orders SET status = 'paid'") // as anybody would
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		copies = nil
		return replicaDB.NewSelect().Model(&copies).Scan(ctx) == nil && len(copies) == 1 && copies[0].Status == "paid"
	}, 30*time.Second, 10*time.Millisecond)
	stop()
	require.NoError(t, group.Wait())
	require.NoError(t, publisher.Close())
}

// migrated is what a deployment does before the service starts.
func migrated(t *testing.T, db *bun.DB) *outbox.Box {
	t.Helper()
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[quickstart.Order](box, "order", outbox.Triggers()))
	require.NoError(t, box.Migrate(t.Context()))
	return box
}

// Without triggers in place the same code is captured by bun, and refuses what it would miss.
func TestMasterWithoutTriggers(t *testing.T) {
	db, err := database.Open("sqlite://" + t.TempDir() + "/orders.db")
	require.NoError(t, err)
	defer db.Close()
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	_, err = db.NewCreateTable().Model((*quickstart.Order)(nil)).Exec(t.Context())
	require.NoError(t, err)
	require.NoError(t, quickstart.Master(t.Context(), db))
	messages, err := db.NewSelect().Table("outbox_messages").Count(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, messages)
	_, err = db.NewRaw("UPDATE orders SET status = 'paid'").Exec(t.Context())
	require.ErrorAs(t, err, new(*outbox.RefusedError))
}

// The README shows this package's code, line by line, and not more than ten lines of it.
func TestReadmeShowsThisCode(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("quickstart.go")
	require.NoError(t, err)
	parts := regexp.MustCompile(`(?s)// README: (\w+)\n(.*?)\t// README: end`).FindAllStringSubmatch(string(source), -1)
	require.Len(t, parts, 2)
	for _, part := range parts {
		code := strings.ReplaceAll("\n"+part[2], "\n\t", "\n")
		require.LessOrEqual(t, strings.Count(part[2], "\n"), 10, part[1])
		require.Contains(t, string(readme), "```go"+code+"```", part[1])
	}
}
