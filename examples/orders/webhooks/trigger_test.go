package webhooks_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestAnOrderIsSentOnRequest(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		one, two, daily := listen(t), listen(t), listen(t)
		status, body := api.call(http.MethodPost, "/orders/1/trigger", "")
		require.Equal(t, http.StatusNotFound, status, body)
		require.JSONEq(t, `{"errors": ["order 1: not found"]}`, body)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new"))
		master.Save(1, order(1, "paid"))
		status, body = api.call(http.MethodPost, "/orders/1/trigger", "")
		require.Equal(t, http.StatusConflict, status, body)
		require.JSONEq(t, `{"errors": ["nobody has subscribed to every action"]}`, body)

		api.subscribe(one.url)
		api.subscribe(two.url)
		api.ok(http.MethodPost, "/subscriptions", fmt.Sprintf(`{"url": %q, "daily": {}}`, daily.url), new(any))
		deliver(t, service)
		var list struct{ Deliveries []delivery }
		api.ok(http.MethodPost, "/orders/1/trigger", "", &list)
		require.Len(t, list.Deliveries, 2)
		require.EqualValues(t, 1, list.Deliveries[0].ID)
		require.EqualValues(t, 2, list.Deliveries[1].ID)
		require.Equal(t, "triggered paid 1", one.next(t))
		require.Equal(t, "triggered paid 1", two.next(t))
		api.ok(http.MethodPost, "/orders/1/trigger?subscription=3", "", &list)
		require.Equal(t, "triggered paid 1", daily.next(t))
		status, _ = api.call(http.MethodPost, "/orders/1/trigger?subscription=4", "")
		require.Equal(t, http.StatusNotFound, status)
		require.Empty(t, one.heard)
	})
}

func TestDeliveriesArePostedAgainUnderTheirID(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		subscriber := listen(t)
		for range 2 * attempts {
			subscriber.answers <- http.StatusBadGateway
		}
		api.subscribe(subscriber.url)
		deliver(t, service)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new"))
		master.Save(2, order(2, "new"))
		failed := func(history []delivery) bool { return len(history) == 2 }
		api.eventually("/deliveries?state=failed", failed)
		before := api.history("/deliveries")

		var answer struct{ Redelivered int }
		api.ok(http.MethodPost, "/deliveries/1/redeliver", "", &answer)
		require.Equal(t, 1, answer.Redelivered)
		api.eventually("/deliveries?order=1", func(history []delivery) bool {
			return history[0].State == "delivered" && len(history[0].Attempts) == attempts+1 &&
				history[0].Message == before[1].Message
		})
		api.ok(http.MethodPost, "/deliveries/1/redeliver", "", &answer) // also what arrived once
		api.eventually("/deliveries?order=1", func(history []delivery) bool {
			return history[0].State == "delivered" && len(history[0].Attempts) == attempts+2
		})
		api.ok(http.MethodPost, "/subscriptions/1/redeliver", "", &answer)
		require.Equal(t, 1, answer.Redelivered)
		api.eventually("/deliveries?state=delivered", failed)
		api.ok(http.MethodPost, "/subscriptions/1/redeliver", "", &answer)
		require.Zero(t, answer.Redelivered)

		for path, want := range map[string]string{
			"/deliveries/9/redeliver":    `404 {"errors":["delivery 9: not found"]}`,
			"/deliveries/x/redeliver":    `400 {"errors":["id: \"x\" is not a positive integer"]}`,
			"/subscriptions/9/redeliver": `404 {"errors":["subscription 9: not found"]}`,
			"/orders/1/trigger?to=1":     `400 {"errors":["to: unknown parameter, want subscription"]}`,
		} {
			status, body := api.call(http.MethodPost, path, "")
			require.Equal(t, want, fmt.Sprint(status, " ", strings.TrimSpace(body)), path)
		}
		status, _ := api.call(http.MethodDelete, "/subscriptions/1", "")
		require.Equal(t, http.StatusNoContent, status)
		status, body := api.call(http.MethodPost, "/deliveries/1/redeliver", "")
		require.Equal(t, http.StatusConflict, status)
		require.JSONEq(t, `{"errors": ["delivery 1: its subscription 1 is gone"]}`, body)
	})
}

func TestWhatIsPendingIsNotPostedTwice(t *testing.T) {
	t.Parallel()
	service, api := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	api.subscribe(listen(t).url)
	mastertest.Start(t, service).Save(1, order(1, "new"))
	status, body := api.call(http.MethodPost, "/deliveries/1/redeliver", "")
	require.Equal(t, http.StatusConflict, status)
	require.JSONEq(t, `{"errors": ["delivery 1 is pending already"]}`, body)
}

func TestTheHistoryIsReadPageByPage(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		api.subscribe(listen(t).url)
		api.subscribe(listen(t).url)
		master := mastertest.Start(t, service)
		for id := range int64(3) {
			master.Save(id+1, order(id+1, "new"))
		}
		var ids []int64
		for path := "/deliveries?limit=2&subscription=2"; path != ""; {
			var list struct {
				Deliveries []delivery
				Next       string
			}
			api.ok(http.MethodGet, path, "", &list)
			for _, one := range list.Deliveries {
				ids = append(ids, one.ID)
			}
			path = list.Next
		}
		require.Equal(t, []int64{6, 4, 2}, ids)
		var one struct {
			Body struct {
				Action string
				Order  struct{ ID int64 }
			}
		}
		api.ok(http.MethodGet, "/deliveries/6", "", &one)
		require.Equal(t, "created", one.Body.Action)
		require.EqualValues(t, 3, one.Body.Order.ID)
		status, _ := api.call(http.MethodGet, "/deliveries/7", "")
		require.Equal(t, http.StatusNotFound, status)
	})
}

func TestRequestsThatAreWrongSayWhy(t *testing.T) {
	t.Parallel()
	few := config()
	few.MaxSubscriptions = 1
	_, api := serveWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), few)
	api.subscribe("http://127.0.0.1:9/")
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{http.MethodPost, "/subscriptions", `{}`, 400, `"url: not one like https://host/path"`},
		{http.MethodPost, "/subscriptions", `{"url": "http://a/", "secret": "x"}`, 400, `"body: unknown field \"secret\""`},
		{http.MethodPost, "/subscriptions", `{"url": "http://127.0.0.1:9/"}`, 409, `"there are 1 subscriptions, which is the most"`},
		{http.MethodPost, "/subscriptions", strings.Repeat(" ", 2<<20), 413, `"body: too large, want at most 1048576 bytes"`},
		{http.MethodGet, "/subscriptions?limit=1", ``, 400, `"limit: unknown parameter, want none"`},
		{http.MethodGet, "/subscriptions/2", ``, 404, `"subscription 2: not found"`},
		{http.MethodDelete, "/subscriptions/0", ``, 400, `"id: \"0\" is not a positive integer"`},
		{http.MethodGet, "/deliveries?order=x", ``, 400, `"order: \"x\" is not a positive integer"`},
		{http.MethodGet, "/deliveries?state=lost", ``, 400, `"state: \"lost\", want pending, delivered, failed or cancelled"`},
		{http.MethodGet, "/deliveries?orders=1", ``, 400, `"orders: unknown parameter, want order, subscription, state, limit, before"`},
		{http.MethodPut, "/deliveries", ``, 405, `"PUT is not allowed here, want GET or HEAD"`},
		{http.MethodPost, "/inbox", `{}`, 404, `"not found: POST /inbox"`},
	} {
		status, body := api.call(test.method, test.path, test.body)
		require.Equal(t, test.status, status, body)
		require.JSONEq(t, `{"errors": [`+test.want+`]}`, body)
	}
}
