package delay_test

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/delay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDelaysAreCountedInBuckets(t *testing.T) {
	var models delay.Models
	require.Empty(t, models.Each())
	for _, took := range []time.Duration{
		-time.Second, 0, time.Millisecond, 1001 * time.Microsecond, time.Minute, 2 * time.Hour,
	} {
		models.AddTook("order", took)
	}
	models.Add("order")
	models.Add("customer")
	all := models.Each()
	order := all["order"]
	require.EqualValues(t, 7, order.Messages)
	require.EqualValues(t, 6, order.Timed)
	require.Equal(t, 2*time.Hour+time.Minute+2001*time.Microsecond, order.Sum)
	require.EqualValues(t, 3, order.Within[time.Millisecond])
	require.EqualValues(t, 4, order.Within[2500*time.Microsecond])
	require.EqualValues(t, 4, order.Within[30*time.Second])
	require.EqualValues(t, 5, order.Within[time.Minute])
	require.EqualValues(t, 5, order.Within[time.Hour], "two hours are in none")
	require.EqualValues(t, 1, all["customer"].Messages)
	require.Zero(t, all["customer"].Timed)
}

func TestTheNumberOfModelsIsBounded(t *testing.T) {
	var models delay.Models
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range 3000 {
				models.AddTook(strconv.Itoa(i), time.Second)
			}
		})
	}
	group.Wait()
	all := models.Each()
	require.Len(t, all, 1001)
	require.EqualValues(t, 8000, all[delay.Other].Messages)
}
