package kafka

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestProgressStandsBesideTheOffset(t *testing.T) {
	p := progress{offset: 10, held: 2, settled: []span{{11, 13}, {20, 21}}}
	require.Equal(t, "2;1-3;10-11", p.text())
	require.Equal(t, p, readProgress(10, p.text()))
	require.EqualValues(t, 30-10-2-3, p.waiting(30))
	for offset, want := range map[int64]bool{9: true, 10: false, 11: true, 12: true, 13: false, 20: true, 21: false} {
		require.Equal(t, want, p.has(offset), offset)
	}
	require.Empty(t, progress{offset: 10}.text())
	for _, foreign := range []string{"", "x", "-1", "1;", "1;2", "1;a-b", "1;0-1", "1;5-4", "metadata"} {
		require.Empty(t, readProgress(7, foreign).settled, foreign)
	}
	for i := range int64(5000) { // more than there is room for
		p.settled = append(p.settled, span{100 + 2*i, 101 + 2*i})
	}
	require.Less(t, len(p.text()), 4096)
	require.Greater(t, len(readProgress(10, p.text()).settled), 300)
}

// Whatever order messages are settled in, nothing is noted as settled that is not, and each is
// handed out until it is.
func TestALaneForgetsNothing(t *testing.T) {
	never := func(*kgo.Record) bool { return false }
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's
		settled, fetched := map[int64]bool{}, int64(0)
		l := newLane("t", 0, progress{})
		var hands []int64
		for range 300 {
			switch random.IntN(4) {
			case 0:
				if fetched%3 != 2 { // compaction leaves gaps
					l.add(&kgo.Record{Offset: fetched, Timestamp: time.Now()}, true)
				}
				fetched++
			case 1:
				if r := l.next(never); r != nil {
					require.False(t, settled[r.Offset])
					hands = append(hands, r.Offset)
					l.take()
				}
			default:
				if len(hands) > 0 {
					i, acked := random.IntN(len(hands)), random.IntN(2) == 0
					settled[hands[i]] = acked
					l.settle(hands[i], acked)
					hands = append(hands[:i], hands[i+1:]...)
				}
			}
			require.Equal(t, len(hands), l.held)
			if random.IntN(50) == 0 { // another consumer goes on
				p := l.progress()
				l = newLane("t", 0, readProgress(p.offset, p.text()))
				hands, fetched = nil, p.offset
				for at, done := range settled {
					require.Equal(t, done, p.has(at), at)
				}
			}
		}
	}
}
