package webhooks_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestTheCopyIsTheOrderWithItsLines(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, _ := serve(t, db)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new"))
		master.Save(2, order(2, "new"))
		master.Save(1, order(1, "paid"))
		master.Delete(2)

		var copies []webhooks.Order
		require.NoError(t, db.NewSelect().Model(&copies).Scan(t.Context()))
		require.Len(t, copies, 1)
		kept := copies[0]
		require.Equal(t, int64(1), kept.ID)
		require.Equal(t, "Ada", kept.Customer)
		require.Equal(t, "paid", kept.Status)
		require.EqualValues(t, 2500, kept.Total)
		require.EqualValues(t, 1, kept.Revision)
		require.Equal(t, "2026-11-22T22:16:33.237828Z", kept.CreatedAt.UTC().Format(time.RFC3339Nano))
		require.Equal(t, []webhooks.Line{{ID: 7, OrderID: 1, SKU: "book", Quantity: 2, Price: 1250}}, kept.Lines)
	})
}

func TestSubscribersHearOfEveryActionInOrder(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		subscriber := listen(t)
		api.subscribe(subscriber.url)
		deliver(t, service)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new"))
		master.Save(1, order(1, "paid"))
		master.Delete(1)
		master.Delete(2) // was never heard of

		require.Equal(t, "created new 0", subscriber.next(t))
		require.Equal(t, "updated paid 1", subscriber.next(t))
		require.Equal(t, "deleted paid 2", subscriber.next(t), "a delete carries the last state")

		api.eventually("/deliveries?order=1", func(history []delivery) bool {
			return len(history) == 3 && history[0].State == "delivered" && history[0].Action == "deleted" &&
				len(history[0].Attempts) == 1 && history[0].Attempts[0].StatusCode == http.StatusNoContent
		})
		api.eventually("/deliveries?order=2", func(history []delivery) bool { return len(history) == 0 })
	})
}

func TestARepairOfTheCopyIsNoNews(t *testing.T) {
	t.Parallel()
	service, api := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	subscriber := listen(t)
	api.subscribe(subscriber.url)
	master := mastertest.Start(t, service)
	master.Sync(1, order(1, "new"))
	master.Save(1, order(1, "paid"))
	api.eventually("/deliveries", func(history []delivery) bool {
		return len(history) == 1 && history[0].Action == "updated"
	})
}

// A fill may bring an order before its own message does, which is a repetition then.
func TestAnOrderThatAFillBringsFirstIsNewsToEarlierSubscribers(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		subscriber := listen(t)
		api.subscribe(subscriber.url)
		master := mastertest.Start(t, service)
		later := strings.ReplaceAll(order(2, "new"), "2026-11-22", "2999-11-22")
		master.Sync(1, order(1, "new")) // it was there before anybody subscribed
		master.Sync(2, later)
		master.Sync(2, later)
		api.eventually("/deliveries", func(history []delivery) bool {
			return len(history) == 1 && history[0].Action == "created"
		})
		api.eventually("/deliveries?order=2", func(history []delivery) bool { return len(history) == 1 })
	})
}

func TestAFailedPostIsTriedAgainAndLaterActionsWait(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		subscriber := listen(t)
		subscriber.answers <- http.StatusInternalServerError
		subscriber.answers <- http.StatusFound // a redirect is not followed
		api.subscribe(subscriber.url)
		deliver(t, service)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new"))
		master.Save(1, order(1, "paid"))

		for _, want := range []string{"created new 0", "created new 0", "created new 0", "updated paid 1"} {
			require.Equal(t, want, subscriber.next(t))
		}
		api.eventually("/deliveries?order=1", func(history []delivery) bool {
			return len(history) == 2 && history[1].State == "delivered" && len(history[1].Attempts) == 3 &&
				history[1].Attempts[0].StatusCode == http.StatusInternalServerError &&
				history[1].Attempts[0].Error == "the subscriber answered 500" &&
				history[1].Attempts[1].StatusCode == http.StatusFound &&
				history[1].Attempts[1].Error == "the subscriber answered 302, and redirects are not followed" &&
				history[1].Attempts[2].Error == ""
		})
	})
}

func TestSubscriptionsAreListedAndEnded(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		subscriber := listen(t)
		api.subscribe(subscriber.url)
		api.subscribe(subscriber.url + "/other")
		mastertest.Start(t, service).Save(1, order(1, "new"))

		status, body := api.call(http.MethodDelete, "/subscriptions/1", "")
		require.Equal(t, http.StatusNoContent, status, body)
		status, body = api.call(http.MethodDelete, "/subscriptions/1", "")
		require.Equal(t, http.StatusNotFound, status, body)
		status, body = api.call(http.MethodGet, "/subscriptions", "")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, subscriber.url+"/other")
		require.NotContains(t, body, `"id":1`)
		require.NotContains(t, body, "secret", "it is shown once")
		api.eventually("/deliveries", func(history []delivery) bool {
			return len(history) == 2 && history[0].State == "pending" && history[1].State == "cancelled"
		})
	})
}

func order(id int64, status string) string {
	return fmt.Sprintf(`{"id": %d, "customer": "Ada", "status": %q, "total": 2500,
		"created_at": "2026-11-22 22:16:33.237828+00:00", "updated_at": "2026-11-22 22:16:33.237828+00:00",
		"lines": [{"id": 7, "order_id": %d, "sku": "book", "quantity": 2, "price": 1250}]}`, id, status, id)
}

// attempts is how often the services under test try.
const attempts = 3

// config is of services that may call the stubs of a test, and are in a hurry.
func config() webhooks.Config {
	targets := webhooks.Targets{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	for port := range 1 << 16 {
		targets.Ports = append(targets.Ports, port)
	}
	return webhooks.Config{
		Targets: targets, Timeout: time.Minute, MaxAttempts: attempts,
		Backoff: time.Millisecond, Poll: 5 * time.Millisecond,
	}
}

func serve(t *testing.T, db *bun.DB) (*webhooks.Service, api) {
	return serveWith(t, db, config())
}

func serveWith(t *testing.T, db *bun.DB, config webhooks.Config) (*webhooks.Service, api) {
	service, err := webhooks.New(t.Context(), db, "queue", config)
	require.NoError(t, err)
	server := httptest.NewServer(service.Handler())
	t.Cleanup(server.Close)
	return service, api{t, server.URL}
}

// api is the service's HTTP interface.
type api struct {
	t   *testing.T
	url string
}

// delivery is what GET /deliveries lists.
type delivery struct {
	ID            int64
	Order         int64
	Action, State string
	Message       string
	Attempts      []struct {
		StatusCode int `json:"status_code"`
		Error      string
	}
}

func (a api) call(method, path, body string) (status int, answer string) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	require.NoError(a.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(a.t, err)
	defer func() { require.NoError(a.t, response.Body.Close()) }()
	text, err := io.ReadAll(response.Body)
	require.NoError(a.t, err)
	return response.StatusCode, string(text)
}

// ok is call for what must succeed; it decodes the answer.
func (a api) ok(method, path, body string, into any) {
	a.t.Helper()
	status, answer := a.call(method, path, body)
	require.Contains(a.t, []int{http.StatusOK, http.StatusCreated, http.StatusAccepted}, status, answer)
	require.NoError(a.t, json.Unmarshal([]byte(answer), into), answer)
}

// subscribe returns the secret.
func (a api) subscribe(url string) (secret string) {
	a.t.Helper()
	var made struct{ Secret string }
	a.ok(http.MethodPost, "/subscriptions", fmt.Sprintf(`{"url": %q}`, url), &made)
	require.NotEmpty(a.t, made.Secret)
	return made.Secret
}

func (a api) history(path string) []delivery {
	a.t.Helper()
	var list struct{ Deliveries []delivery }
	a.ok(http.MethodGet, path, "", &list)
	return list.Deliveries
}

func (a api) eventually(path string, is func([]delivery) bool) {
	a.t.Helper()
	var history []delivery
	defer func() {
		if a.t.Failed() {
			a.t.Logf("%+v", history)
		}
	}()
	require.Eventually(a.t, func() bool {
		history = a.history(path)
		return is(history)
	}, 20*time.Second, 10*time.Millisecond)
}

// deliver runs the service's deliveries until the test ends.
func deliver(t *testing.T, service *webhooks.Service) {
	run(t, service.Deliver)
}
