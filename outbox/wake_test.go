package outbox

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNotificationsComeAtOnceThenSeldomAndLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		start := time.Now()
		var log bytes.Buffer
		a := newAnnouncer(func(context.Context) error {
			told = append(told, time.Since(start))
			return errors.New("the database is away")
		}, announceEvery, slog.New(slog.NewTextHandler(&log, nil)))
		a.ring()
		synctest.Wait()
		require.Equal(t, []time.Duration{0}, told, "the first at once")
		for range 50 { // for 12.5 ms
			time.Sleep(250 * time.Microsecond) //nolint:forbidigo // the time of synctest does not pass
			a.ring()
		}
		time.Sleep(time.Second) //nolint:forbidigo // likewise
		synctest.Wait()
		require.Equal(t, []time.Duration{0, announceEvery, 2 * announceEvery, 3 * announceEvery}, told, "the last word at the end")
		a.ring()
		synctest.Wait()
		require.Len(t, told, 5, "and at once again")
		time.Sleep(time.Second) //nolint:forbidigo // likewise: it ends by itself
		require.Equal(t, 1, strings.Count(log.String(), "the database is away"), "said once: %s", &log)
	})
}

func TestARingDuringANotificationIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int64
		release := make(chan struct{})
		a := newAnnouncer(func(context.Context) error {
			told.Add(1)
			<-release
			return nil
		}, announceEvery, slog.New(slog.DiscardHandler))
		a.ring()
		synctest.Wait()
		a.ring()
		close(release)
		time.Sleep(time.Second) //nolint:forbidigo // the time of synctest does not pass
		require.Equal(t, int64(2), told.Load())
	})
}

func TestCloseTellsTheLastWordAndEndsTheGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var told []time.Duration
		a := newAnnouncer(func(context.Context) error {
			told = append(told, time.Since(start))
			return nil
		}, announceEvery, slog.New(slog.DiscardHandler))
		a.ring()
		synctest.Wait()
		a.ring()
		a.close()
		require.Equal(t, []time.Duration{0, 0}, told, "without a pause")
		a.ring()
		a.close()
		require.Len(t, told, 2, "and nothing after it")
	})
}
