package outbox

import (
	"context"
	"errors"
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
		a := &announcer{announce: func(context.Context) error {
			told = append(told, time.Since(start))
			return errors.New("the database is away")
		}}
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
	})
}

func TestARingDuringANotificationIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int64
		release := make(chan struct{})
		a := &announcer{announce: func(context.Context) error {
			told.Add(1)
			<-release
			return nil
		}}
		a.ring()
		synctest.Wait()
		a.ring()
		close(release)
		time.Sleep(time.Second) //nolint:forbidigo // the time of synctest does not pass
		require.Equal(t, int64(2), told.Load())
	})
}
