package replica_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// windows counts what a subscriber has handed out and not got back, and notes the windows that it is asked for.
type windows struct {
	transport.WindowSubscriber
	asked chan int
}

func (w *windows) SubscribeWindow(ctx context.Context, topic string, window int) (<-chan *message.Message, error) {
	w.asked <- window
	return w.WindowSubscriber.SubscribeWindow(ctx, topic, window)
}

func TestBytesBoundWhatIsHeld(t *testing.T) {
	const size, count, limit = 100_000, 60, 1_000_000
	broker := memory.New()
	subscriber := &windows{broker.Subscriber(queue), make(chan int, 100)}
	f := newFixtureWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{Window: 1000, WindowBytes: limit})
	mirror[Note](f, "note")
	stop := run(t, f.Replica, subscriber)
	await(t, f.Running())
	var out []transport.Outgoing
	for id := range int64(count) {
		out = append(out, transport.Outgoing{Topic: "note", Message: delivery(t, save(id, 0, strings.Repeat("x", size)))})
	}
	for _, err := range broker.Publisher().PublishBatch(t.Context(), out) {
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return f.Stats().Applied == count }, time.Minute, time.Millisecond)
	require.LessOrEqual(t, f.MostHeld(), limit+2*size)
	require.Equal(t, 1, <-subscriber.asked, "as long as nobody knows how large they are")
	for len(subscriber.asked) > 0 {
		require.LessOrEqual(t, <-subscriber.asked, 12, "the broker is asked for fewer at a time")
	}

	for id := range int64(3000) { // smaller ones again
		require.NoError(t, broker.Publisher().Publish("note", delivery(t, save(1000+id, 0, "x"))))
	}
	require.Eventually(t, func() bool { return f.Stats().Applied == count+3000 }, time.Minute, time.Millisecond)
	last := 0
	for len(subscriber.asked) > 0 {
		last = <-subscriber.asked
	}
	require.Greater(t, last, 12, "and for more where they are small")
	for i := range out { // large ones again, of which the broker may send as many as of small ones
		out[i].Message = delivery(t, save(int64(i), 1, strings.Repeat("y", size)))
	}
	for _, err := range broker.Publisher().PublishBatch(t.Context(), out) {
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return f.Stats().Applied == 2*count+3000 }, time.Minute, time.Millisecond)
	require.LessOrEqual(t, f.MostHeld(), limit+2*size)
	require.NoError(t, stop())
	require.Zero(t, f.BytesHeld())
	require.Empty(t, f.deadLetters())
}

func TestBodyThatIsTooLargeIsNotLookedInto(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		body := make([]byte, 0, 100<<20)
		body = append(body, save(7, 3, "x").Data[:10]...)
		for len(body) < 100<<20 {
			body = append(body, `\" 0123456789 abc ü`...)
		}
		large := message.NewMessage("large", body)
		large.Metadata = message.Metadata{"cqrs_key": "7", "cqrs_revision": "3"}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.NoError(t, f.Handler()(large))
		runtime.ReadMemStats(&after)
		t.Logf("%d MB allocated", (after.TotalAlloc-before.TotalAlloc)>>20)
		f.deliver(save(1, 0, "a"))
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		require.EqualValues(t, 1, f.DeadLetters()[replica.TooLarge])
		letters := f.deadLetters()
		require.Len(t, letters, 1)
		require.Equal(t, "7", letters[0].Key)
		require.EqualValues(t, 3, *letters[0].Revision)
		require.Contains(t, letters[0].Error, fmt.Sprintf("the body has %d bytes", len(body)))
		require.Contains(t, letters[0].Error, "MaxPayload allows 16777216")
		if len(letters[0].Body) < len(body) {
			require.Contains(t, letters[0].Error, fmt.Sprintf("only the first %d of its %d bytes", len(letters[0].Body), len(body)))
		}
	})
}

// A message that the database could neither apply nor keep stops nobody.
func TestBodyBeyondAStatementStopsNobody(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.together(save(1, 0, "a"), save(2, 0, strings.Repeat(`\'`, 3<<20)), save(3, 0, "c"))
		f.together(save(4, 0, "a"), save(5, 0, strings.Repeat("x", 15<<20)), save(6, 0, "c"))
		require.Equal(t, "c", f.notes()[3])
		require.Equal(t, "c", f.notes()[6])
		require.Zero(t, f.Stats().Returned)
		require.EqualValues(t, 6, f.Stats().Applied+f.Stats().DeadLettered)
	})
}

// Amount reads itself, and takes its time for long numbers.
type Amount struct{ big.Int }

func (a *Amount) UnmarshalJSON(raw []byte) error { return json.Unmarshal(raw, &a.Int) }

func TestNumberOfTenMillionDigitsCostsItsOwnMessageOnly(t *testing.T) {
	type Priced struct {
		ID    int64  `bun:",pk"`
		Price Amount `bun:"type:numeric"`
	}
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	f := newFixture(t, db)
	mirror[Note](f, "note")
	require.NoError(t, replica.HandleFunc(f.Replica, "priced", func(context.Context, replica.Event[Priced]) error { return nil }))
	digits := strings.Repeat("9", 10_000_000)
	start := time.Now()
	for i, value := range []string{digits, `"` + digits + `"`, "1e999999999", `"-1E999999999999999999999"`} {
		id := fmt.Sprint(i)
		body := `{"signal_type":"SAVE","cqrs_id":"priced","instance_pk":` + id + `,"instance_data":{"id":` + id + `,"cqrs_revision":0,"price":` + value + `}}`
		require.NoError(t, f.Handler()(message.NewMessage("digits", []byte(body))))
	}
	f.deliver(save(1, 0, "a"), of("priced", envelope.Save, "9", 0, `"price":12`))
	require.Less(t, time.Since(start), 20*time.Second)
	require.Len(t, f.deadLetters(), 4)
	for _, letter := range f.deadLetters() {
		require.Less(t, len(letter.Error), 500)
	}
	require.EqualValues(t, 2, f.Stats().Applied)
}
