package webhooks_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// Several processes of the service share its tables: each delivery is posted by one of them, and
// each summary is made by one.
func TestProcessesShareTheDeliveries(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		clock := newClock()
		timed := config()
		timed.Now = clock.now
		service, api := serveWith(t, db, timed)
		deliver(t, service)
		for range 3 {
			another, _ := serveWith(t, db, timed)
			deliver(t, another)
		}
		each, daily := listen(t), listen(t)
		api.subscribe(each.url)
		api.ok(http.MethodPost, "/subscriptions", fmt.Sprintf(`{"url": %q, "daily": {}}`, daily.url), new(any))
		master := mastertest.Start(t, service)
		const orders, days = 20, 5
		for day := range days {
			for id := range int64(orders / days) {
				master.Save(int64(day)*10+id+1, order(int64(day)*10+id+1, "new"))
			}
			// Were one on its way while a day goes by, its process would be taken for dead.
			api.eventually("/deliveries?state=pending", func(history []delivery) bool { return len(history) == 0 })
			clock.advance(24 * time.Hour)
			daily.next(t)
		}
		for range orders {
			each.next(t)
		}
		api.eventually("/deliveries?limit=200&state=delivered", func(history []delivery) bool {
			return len(history) == orders+days
		})
		require.Len(t, api.history("/deliveries?limit=200"), orders+days)
		require.Empty(t, each.heard, "nothing is posted twice")
		require.Empty(t, daily.heard)
	})
}
