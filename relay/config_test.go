package relay

import (
	"context"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/handover"
)

func TestDefaultsKeepEveryFieldThatIsSet(t *testing.T) {
	cfg := Config{
		ID: "a", BatchSize: 1, PollInterval: 2, Wake: make(chan struct{}), Handover: handover.New(), LeaseTTL: 3, MaxAttempts: 4,
		RetryMin: 5, RetryMax: 6, ShutdownTimeout: 7, Schema: "s", TablePrefix: "p", Logger: slog.Default(),
		Before: func(context.Context) error { return nil },
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		require.False(t, reflect.ValueOf(cfg).Field(i).IsZero(), "this test knows every field")
	}
	got := cfg.withDefaults()
	require.NotNil(t, got.Before)
	cfg.Before, got.Before = nil, nil // functions cannot be compared
	require.Equal(t, cfg, got)
}

func TestTheZeroConfigIsValid(t *testing.T) {
	cfg := Config{}.withDefaults()
	require.NoError(t, cfg.validate())
	require.NotEqual(t, cfg.ID, Config{}.withDefaults().ID)
	require.NoError(t, Config{RetryMin: time.Hour}.withDefaults().validate())
}

func TestRetriesWaitTwiceAsLongEachTimeUpToTheMost(t *testing.T) {
	cfg := Config{RetryMin: time.Second, RetryMax: 5 * time.Minute}
	for attempts, want := range map[int]time.Duration{
		0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 9: 5 * time.Minute, 1_000_000: 5 * time.Minute,
	} {
		for range 100 {
			require.InEpsilon(t, want.Seconds(), cfg.retryWait(attempts, jitterOf("a")).Seconds(), 0.2001)
		}
	}
}
