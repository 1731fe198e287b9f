package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

func TestALowWaterMarkWaitsForThoseWhoMayStillCommitBelowIt(t *testing.T) {
	const everything = 1 << 62
	who := func(names ...string) queue.Writers {
		w := queue.Writers{Open: map[string]bool{}}
		for _, name := range names {
			w.Open[name] = true
		}
		return w
	}
	p := &lane{high: 100}
	p.advance(who("a", "b"), 100, everything)
	require.Zero(t, p.low, "two may commit late")
	p.advance(who("b", "c"), 150, everything)
	require.Zero(t, p.low, "one still may")
	p.advance(who("c", "d"), 200, 99)
	require.Zero(t, p.low, "not all was seen")
	p.advance(who("c", "d"), 200, everything)
	require.Equal(t, int64(100), p.low, "those who came later draw larger identities")
	p.advance(who("e"), 200, everything)
	require.Equal(t, int64(200), p.low)
	p.advance(who(), 300, everything)
	require.Equal(t, int64(300), p.low, "nobody was there")
	p.rewind(251)
	require.Equal(t, int64(250), p.low)
	p.rewind(401)
	require.Equal(t, int64(250), p.low, "it goes back only")

	drawn := func(id int64, names ...string) queue.Writers {
		w := who(names...)
		w.Drawn = id
		return w
	}
	p.advance(drawn(500), 300, 400)
	require.Equal(t, int64(400), p.low, "who draws later draws larger identities, but more was not seen")
	p.advance(drawn(500), 400, everything)
	require.Equal(t, int64(500), p.low, "all that was seen beyond may have had others before it")
	p.advance(drawn(600, "f"), 500, everything)
	require.Equal(t, int64(500), p.low, "one may commit late")
	p.advance(drawn(700), 500, 599)
	require.Equal(t, int64(500), p.low, "not all of it was seen since")
	p.advance(drawn(700), 500, 600)
	require.Equal(t, int64(600), p.low)
}

// everywhere takes all messages.
type everywhere struct{ message.Publisher }

func (everywhere) Publish(string, ...*message.Message) error { return nil }

// A low-water mark that never moves would be right, and slow; one that passes a waiting key would lose its order.
func TestLowWaterMarksFollowWhatIsSentAndStayWhereAKeyWaits(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		r := newRelay(t, db, everywhere{}, Config{})
		_, told, err := r.queue.Writers(t.Context())
		require.NoError(t, err)
		add := func(key string) {
			require.NoError(t, storeOf(r).Append(t.Context(), db, []queue.Message{{
				Model: "order", Key: key, Signal: "SAVE", PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(), Keep: true,
			}}, nil))
		}
		add("waits")
		claimed, _, err := r.queue.Claim(t.Context(), everyLane(), 10, queue.Except{})
		require.NoError(t, err)
		waiting := claimed[0]
		require.NoError(t, r.queue.Finish(t.Context(), "other", nil, queue.Outcome{
			Failed: []queue.Failure{{Claimed: waiting, Error: "no", Wait: time.Hour}},
		}))

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for n := range 400 {
			if n%20 == 0 { // others write all the time
				for i := range 64 {
					add(fmt.Sprint("k", i))
				}
			}
			r.advance(ctx)
			r.wait(ctx)
			if n > 200 && (!told || moved(r, waiting.Lane)) {
				break
			}
		}
		require.Equal(t, told, moved(r, waiting.Lane), "the low-water marks of the others move where the database tells who writes, and nowhere else")
		require.Less(t, r.reader.lanes.of(waiting.Lane).low, waiting.ID, "the mark has passed a waiting key")
		for r.finishing(ctx) {
			r.wait(ctx)
		}
		require.NoError(t, r.leave(ctx))
	})
}

// afterQuery runs once, when the database has answered a query in which a text stands.
type afterQuery struct {
	text string
	run  func()
	once sync.Once
}

func (*afterQuery) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (a *afterQuery) AfterQuery(_ context.Context, event *bun.QueryEvent) {
	if strings.Contains(event.Query, a.text) {
		a.once.Do(a.run)
	}
}

// A former owner that was stopped may write down a failure at any time.
func TestALowWaterMarkDoesNotPassAKeyThatBeginsToWaitWhileTheLaneIsRead(t *testing.T) {
	db := dbtest.Open(t, dbtest.PostgresURL(t)) // elsewhere nobody tells who writes, and the marks stay
	c := newCompacting(t, db)
	c.append(t, db, "waits", 2, 0, 1)
	first := c.unsent(t)[0]
	at := c.reader.lanes.of(first.Lane)
	p := c.reader.plan(time.Now())
	p.check = true
	former := storeOf(c.Relay)
	hooked := db.WithQueryHook(&afterQuery{text: "outbox_retries", run: func() {
		require.NoError(t, former.Finish(t.Context(), "former", nil, queue.Outcome{
			Failed: []queue.Failure{{Claimed: first, Error: "no", Wait: time.Hour}},
		}))
	}})
	s, err := mastertest.New(hooked)
	c.queue = s
	require.NoError(t, err)
	got, err := c.read(t.Context(), p, queue.Except{}, c.lanes)
	require.NoError(t, err)
	c.reader.note(p, got, 0)
	require.Empty(t, got.claimed, "its key waits")
	require.Less(t, at.low, first.ID)
}

// newRelay makes one, with its tables, that is not running.
func newRelay(t *testing.T, db *bun.DB, publisher message.Publisher, cfg Config) *Relay {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	r, err := New(db, publisher, cfg)
	require.NoError(t, err)
	require.NoError(t, storeOf(r).Make(t.Context()))
	return r
}

// storeOf is the store on the database of a relay that New made.
func storeOf(r *Relay) *mastertest.Outbox {
	s, err := mastertest.New(r.queue.(database).Queue.DB())
	if err != nil {
		panic(err) // New has checked the same
	}
	return s
}

func everyLane() []queue.Start {
	all := make([]queue.Start, 64)
	for i := range all {
		all[i].Lane = i
	}
	return all
}

// moved says that most low-water marks but that of one lane have.
func moved(r *Relay, except int) bool {
	n := 0
	for _, at := range r.reader.lanes {
		if at.number != except && at.low > 0 {
			n++
		}
	}
	return n > 20
}
