package dashboard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

func TestTheLastHourIsKeptAndDrawn(t *testing.T) {
	var h history
	now := time.Now()
	state := func(unsent int64) diagnosis.State {
		return diagnosis.State{Readable: true, Master: admin.MasterStatus{Unsent: unsent, Relays: 1}}
	}
	h.add(now, state(10), &gone{0, 0})
	h.add(now.Add(time.Second), state(99), &gone{5, 5}) // somebody looks often
	h.add(now.Add(5*time.Second), state(20), &gone{30, 40})
	plots := h.plots(now.Add(5 * time.Second))
	require.Equal(t, "20", plots[0].Now)
	require.Equal(t, "Written a second", plots[2].Title)
	require.Equal(t, "10", plots[2].Now, "40 left, and 10 more wait, in 5 s")
	require.Equal(t, "6", plots[3].Now)
	require.Contains(t, string(plots[0].Path), "L600 2")

	h.add(now.Add(10*time.Second), diagnosis.State{}, &gone{30, 40}) // the database is away: a gap
	require.Equal(t, "20", h.plots(now)[0].Now)
	for i := range 2 * mostSamples {
		h.add(now.Add(time.Duration(i)*sampleEvery), state(1), nil)
	}
	require.LessOrEqual(t, len(h.samples), mostSamples)
	require.Len(t, h.plots(now), 2, "without a relay nobody knows what was sent")
}
