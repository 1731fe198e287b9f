package monitor_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay/monitor"
)

func TestReplicasAreShownAndAMissingQueueIsNotReady(t *testing.T) {
	e := start(t, dbtest.Open(t, dbtest.SQLiteURL(t)), time.Hour)
	var missing atomic.Bool
	e.monitor.WatchReplicas(monitor.Replicas{
		Read: func(context.Context) ([]monitor.Replica, error) {
			return []monitor.Replica{
				{
					Queue: "stats", Lag: new(1500 * time.Millisecond),
					Models: []monitor.ReplicaModel{{Model: "order", Waiting: 2, DeadLetters: 3}},
				},
				{Queue: "webhooks", Silent: true, Vanished: time.Unix(1_700_000_000, 0)},
			}, nil
		},
		Ready: func() error {
			if missing.Load() {
				return errors.New("the queue of the replica \"stats\" cannot be made")
			}
			return nil
		},
	})
	for _, line := range []string{
		`cqrsync_master_replica_lag_seconds{queue="stats"} 1.5`,
		`cqrsync_master_replica_silent{queue="stats"} 0`,
		`cqrsync_master_replica_silent{queue="webhooks"} 1`,
		`cqrsync_master_replica_queue_vanished_timestamp_seconds{queue="webhooks"} 1.7e+09`,
		`cqrsync_master_replica_waiting_messages{model="order",queue="stats"} 2`,
		`cqrsync_master_replica_dead_letters{model="order",queue="stats"} 3`,
	} {
		e.says(t, "/metrics", http.StatusOK, line)
	}
	_, body := e.get(t, "/metrics")
	require.NotContains(t, body, `lag_seconds{queue="webhooks"}`, "it is not known")
	e.says(t, "/readyz", http.StatusOK, "")
	missing.Store(true)
	e.says(t, "/readyz", http.StatusServiceUnavailable, "stats")
}
