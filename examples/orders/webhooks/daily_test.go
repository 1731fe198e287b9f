package webhooks_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestASubscriberGetsADaysActionsAtOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		clock := newClock() // 09:00
		timed := config()
		timed.Now = clock.now
		service, api := serveWith(t, db, timed)
		subscriber, each := listen(t), listen(t)
		var made struct {
			Daily struct{ At, Zone, Next string }
		}
		api.ok(http.MethodPost, "/subscriptions",
			fmt.Sprintf(`{"url": %q, "daily": {"at": "08:00", "zone": "Europe/Berlin"}}`, subscriber.url), &made)
		require.Equal(t, "2026-12-01T07:00:00Z", made.Daily.Next)
		api.subscribe(each.url)
		deliver(t, service)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new"))
		master.Save(1, order(1, "paid"))
		master.Save(2, order(2, "new"))
		master.Save(3, order(3, "new"))
		master.Delete(3)
		for range 5 {
			each.next(t)
		}
		require.Empty(t, subscriber.posts, "each action is told to others")

		summary := func() string {
			subscriber.next(t)
			return string((<-subscriber.posts).body)
		}
		clock.advance(22 * time.Hour) // 07:00 UTC, 08:00 in Berlin
		require.JSONEq(t, `{"action": "summary", "from": "2026-11-30T09:00:00Z", "until": "2026-12-01T07:00:00Z",
			"actions": {"created": 3, "updated": 1, "deleted": 1}, "orders": 3, "total": 5000}`, summary())

		master.Delete(2)
		clock.advance(72 * time.Hour) // away for three days: one summary, not three
		require.JSONEq(t, `{"action": "summary", "from": "2026-12-01T07:00:00Z", "until": "2026-12-04T07:00:00Z",
			"actions": {"deleted": 1}, "orders": 1, "total": 0}`, summary())
		clock.advance(24 * time.Hour) // a day without news says so
		require.JSONEq(t, `{"action": "summary", "from": "2026-12-04T07:00:00Z", "until": "2026-12-05T07:00:00Z",
			"actions": {}, "orders": 0, "total": 0}`, summary())
		require.Len(t, api.history("/deliveries?subscription=1"), 3)
	})
}

// While the summary is made, orders go on changing: every action is in exactly one summary.
func TestEveryActionIsInOneSummary(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		clock := newClock()
		timed := config()
		timed.Now = clock.now
		service, api := serveWith(t, db, timed)
		subscriber := listen(t)
		api.ok(http.MethodPost, "/subscriptions", fmt.Sprintf(`{"url": %q, "daily": {}}`, subscriber.url), new(any))
		deliver(t, service)
		master := mastertest.Start(t, service)
		const changes = 60
		counted := 0
		count := func() {
			var body struct{ Actions map[string]int }
			require.NoError(t, json.Unmarshal((<-subscriber.posts).body, &body))
			for _, n := range body.Actions {
				counted += n
			}
		}
		for i := range int64(changes) {
			if i%10 == 5 {
				clock.advance(24 * time.Hour)
			}
			master.Save(i%7+1, order(i%7+1, "new"))
		}
		deadline := time.Now().Add(20 * time.Second)
		for counted < changes {
			require.True(t, time.Now().Before(deadline), "%d of %d", counted, changes)
			select {
			case <-subscriber.heard:
				count()
			case <-time.After(20 * time.Millisecond):
				clock.advance(24 * time.Hour)
			}
		}
		require.Equal(t, changes, counted)
	})
}

func TestSchedulesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	_, api := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for daily, want := range map[string]string{
		`{"at": "24:00"}`:                   `"daily.at: \"24:00\", want a time like 08:00"`,
		`{"at": "8:00"}`:                    `"daily.at: \"8:00\", want a time like 08:00"`,
		`{"at": "08:00:00"}`:                `"daily.at: \"08:00:00\", want a time like 08:00"`,
		`{"zone": "Local"}`:                 `"daily.zone: \"Local\" is not a time zone, want one like UTC or Europe/Berlin"`,
		`{"zone": "../../etc/passwd"}`:      `"daily.zone: \"../../etc/passwd\" is not a time zone, want one like UTC or Europe/Berlin"`,
		`{"at": "x", "zone": "Mars/North"}`: `"daily.at: \"x\", want a time like 08:00", "daily.zone: \"Mars/North\" is not a time zone, want one like UTC or Europe/Berlin"`,
		`{"on": "Monday"}`:                  `"body: unknown field \"on\""`,
		`"08:00"`:                           `"daily: a text, want an object"`,
	} {
		status, body := api.call(http.MethodPost, "/subscriptions", `{"url": "http://127.0.0.1:9/", "daily": `+daily+`}`)
		require.Equal(t, http.StatusBadRequest, status, body)
		require.JSONEq(t, `{"errors": [`+want+`]}`, body)
	}
}

// clock is a clock that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(by)
}

// quiet takes what a server of a test complains of on purpose.
var quiet = log.New(io.Discard, "", 0)
