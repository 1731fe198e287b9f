package crash_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
)

// The environment of a side of a verification. It is killed after so many questions, or answers.
const (
	verifyMasterURL  = "CQRSYNC_CRASH_VERIFY_MASTER"
	verifyReplicaURL = "CQRSYNC_CRASH_VERIFY_REPLICA"
)

// verifyPace is how often both sides speak: often enough to end soon, and seldom enough for the race
// detector.
const verifyPace = 500 * time.Millisecond

// verifies says that a message is a part of a verification.
func verifies(out transport.Outgoing) bool {
	return slices.Contains([]string{"ranges", "listing", "walk", "absent", "compared", "settled"},
		out.Message.Metadata.Get(transport.ControlKey))
}

func verifyingMaster(ctx context.Context, db *bun.DB, broker string, stop *countdown) error {
	return runMaster(ctx, db, broker, converge.AnswererConfig{Pace: verifyPace, VerifyEvery: verifyPace},
		killedPublisher{counts: verifies, stop: stop})
}

func verifyingReplica(ctx context.Context, db *bun.DB, broker string, stop *countdown) error {
	return runReplica(ctx, db, broker, converge.ReporterConfig{Pace: verifyPace, Grace: verifyPace},
		killedPublisher{counts: verifies, stop: stop})
}

// Master and replica are killed in the middle of comparisons that find much, while rows change.
func TestAVerificationGoesOnWhereItWasKilled(t *testing.T) {
	t.Parallel()
	for kind, newURL := range dbtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			verifiesThoughKilled(t, newURL(t), newURL(t))
		})
	}
}

func verifiesThoughKilled(t *testing.T, masterURL, replicaURL string) {
	master, copies := dbtest.Open(t, masterURL), dbtest.Open(t, replicaURL)
	box := prepareFilling(t, master, copies)
	loadArticles(t, box, copies)
	spoilArticles(t, copies)
	broker := "sqlite://" + filepath.Join(t.TempDir(), "broker.db")

	tables, err := admin.Open(master, admin.Config{})
	require.NoError(t, err)
	m, err := tables.Master(t.Context())
	require.NoError(t, err)
	stopDemanding := demand(t, m)
	t.Cleanup(stopDemanding)
	var killing errgroup.Group
	run := func(side, url string, stops ...int) {
		killing.Go(func() error {
			for _, stop := range stops {
				killProcess(t, fmt.Sprintf("%s at %d", side, stop), side+"="+url, fillBroker+"="+broker,
					fillStop+"="+strconv.Itoa(stop))
			}
			runAside(t, side+"="+url, fillBroker+"="+broker, fillStop+"=0") // the other one needs it
			return nil
		})
	}
	run(verifyMasterURL, masterURL, 2, 6) // questions: of all, of parts or keys
	run(verifyReplicaURL, replicaURL, 1, 3)
	stopWriting := writeArticles(t, master, box)
	require.NoError(t, killing.Wait())
	stopWriting()
	stopDemanding()
	requireProvenEqual(t, m)
	var want, have []article
	require.NoError(t, master.NewSelect().Model(&want).OrderExpr("id").Scan(t.Context()))
	require.NoError(t, copies.NewSelect().Model(&have).OrderExpr("id").Scan(t.Context()))
	require.Equal(t, want, have)
}

// demand asks for comparisons until it is stopped, so that no side rests.
func demand(t *testing.T, m *admin.Master) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pause := time.NewTicker(verifyPace); ; {
			_, _ = m.Verify(ctx, fillQueue, nil) // while both are killed nobody may be there
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return
			}
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-ended })
}

// requireProvenEqual waits for a comparison that begins after now and finds all equal.
func requireProvenEqual(t *testing.T, m *admin.Master) {
	var results []admin.Verification
	require.Eventually(t, func() bool {
		var err error
		results, err = m.Verify(t.Context(), fillQueue, nil)
		return err == nil && len(results) == 1 && results[0].Outcome == admin.VerifiedEqual
	}, 3*time.Minute, 50*time.Millisecond, "it is proven equal")
}

// loadArticles fills the replica.
func loadArticles(t *testing.T, box *outbox.Box, copies *bun.DB) {
	var dump bytes.Buffer
	_, err := operate.Dump(t.Context(), box, "article", &dump, operate.DumpOptions{})
	require.NoError(t, err)
	rep, err := replica.New(copies, replica.Config{Queue: fillQueue, Logger: silently})
	require.NoError(t, err)
	require.NoError(t, replica.Register[article](rep, "article"))
	_, err = operate.Load(t.Context(), rep, &dump, operate.LoadOptions{})
	require.NoError(t, err)
}

// spoilArticles makes a difference of each kind, all over the keys.
func spoilArticles(t *testing.T, copies *bun.DB) {
	for _, statement := range []string{
		"DELETE FROM articles WHERE id % 100 = 7",
		"INSERT INTO articles (id, name) VALUES (999001, 'phantom'), (999002, 'phantom')",
		"DELETE FROM replica_revisions WHERE updated_at IS NOT NULL AND ? IN ('150', '2150')",
		"UPDATE replica_revisions SET revision = -1 WHERE ? IN ('160', '2160')",
	} {
		_, err := copies.NewRaw(statement, bun.Ident("key")).Exec(t.Context())
		require.NoError(t, err, statement)
	}
}
