package stats_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/examples/orders/stats"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestOrdersAreAddedUpPerDayAndMonth(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, url := serve(t, db)
		master := mastertest.Start(t, service)
		master.Save(1, order(1, "new", 100, "2026-10-31 23:59:59.999999+00:00"))
		master.Save(2, order(2, "new", 20, "2026-11-01 00:00:00+00:00"))
		master.Save(3, order(3, "paid", 3, "2026-11-01 12:00:00.5+00:00"))
		master.Save(4, order(4, "paid", 4000, "2026-12-01 00:00:00+00:00"))
		master.Save(5, order(5, "paid", 7, "2026-11-30 23:59:59.999999+00:00"))
		master.Save(6, order(6, "new", 50000, "2026-11-02 00:00:00+00:00"))
		master.Delete(6)
		master.Save(2, order(2, "new", 30, "2026-11-01 00:00:00+00:00"))

		status, body := get(t, url+"/stats/orders?from=2026-10-31&to=2026-11-30")
		require.Equal(t, http.StatusOK, status, body)
		require.JSONEq(t, `{"from": "2026-10-31", "to": "2026-11-30", "zone": "UTC",
			"days": [
				{"period": "2026-10-31", "orders": 1, "total": 100, "by_status": {"new": {"orders": 1, "total": 100}}},
				{"period": "2026-11-01", "orders": 2, "total": 33,
					"by_status": {"new": {"orders": 1, "total": 30}, "paid": {"orders": 1, "total": 3}}},
				{"period": "2026-11-30", "orders": 1, "total": 7, "by_status": {"paid": {"orders": 1, "total": 7}}}
			],
			"months": [
				{"period": "2026-10", "orders": 1, "total": 100, "by_status": {"new": {"orders": 1, "total": 100}}},
				{"period": "2026-11", "orders": 3, "total": 40,
					"by_status": {"new": {"orders": 1, "total": 30}, "paid": {"orders": 2, "total": 10}}}
			]}`, body)

		status, body = get(t, url+"/stats/orders?from=2020-01-01&to=2020-12-31")
		require.Equal(t, http.StatusOK, status, body)
		require.JSONEq(t, `{"from": "2020-01-01", "to": "2020-12-31", "zone": "UTC", "days": [], "months": []}`, body)
	})
}

func TestDaysAreThoseOfTheZoneThatIsAskedFor(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, url := serve(t, db)
		master := mastertest.Start(t, service)
		for id, created := range []string{
			"2026-10-24 21:59:59.9+00:00", // the day before in Berlin
			"2026-10-24 22:00:00+00:00",   // the day on which clocks there are put back has 25 hours
			"2026-10-25 22:59:59.9+00:00",
			"2026-10-25 23:00:00+00:00", // the day after
			"2026-10-25 18:29:00+00:00", // still that day in Kolkata (+05:30)
			"2026-10-26 00:30:00+02:00", // written in a zone of its own
		} {
			master.Save(int64(id)+1, order(int64(id)+1, "new", 1, created))
		}
		for query, want := range map[string]string{
			"from=2026-10-25&to=2026-10-25&zone=Europe/Berlin":    "map[2026-10-25:4]",
			"from=2026-10-24&to=2026-10-26&zone=Europe/Berlin":    "map[2026-10-24:1 2026-10-25:4 2026-10-26:1]",
			"from=2026-10-25&to=2026-10-25":                       "map[2026-10-25:4]",
			"from=2026-10-25&to=2026-10-25&zone=Asia/Kolkata":     "map[2026-10-25:3]",
			"from=2026-10-24&to=2026-10-24&zone=America/New_York": "map[2026-10-24:2]",
			"from=1000-01-01&to=9999-12-31":                       "map[2026-10-24:2 2026-10-25:4]",
			"from=1000-01-01&to=9999-12-31&zone=Pacific/Auckland": "map[2026-10-25:2 2026-10-26:4]",
			"from=9999-12-31&to=9999-12-31":                       "map[]",
			"from=9999-12-30&to=9999-12-30&zone=America/New_York": "map[]",
			"from=1000-01-01&to=1000-01-01&zone=Pacific/Auckland": "map[]",
		} {
			status, body := get(t, url+"/stats/orders?"+query)
			require.Equal(t, http.StatusOK, status, body)
			var report stats.Report
			require.NoError(t, json.Unmarshal([]byte(body), &report))
			days := map[string]int64{}
			for _, day := range report.Days {
				days[day.Period] += day.Orders
			}
			require.Equal(t, want, fmt.Sprint(days), query)
		}
	})
}

func TestConsumersShareTheQueue(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, url := serve(t, db)
		master := mastertest.Start(t, service)
		const orders, rounds = 10, 6
		for round := range rounds {
			for id := range int64(orders) {
				master.Save(id+1, order(id+1, "new", int64(round), "2026-10-24 21:59:59+00:00"))
			}
		}
		status, body := get(t, url+"/stats/consumers")
		require.Equal(t, http.StatusOK, status)
		var counts stats.Consumers
		require.NoError(t, json.Unmarshal([]byte(body), &counts))
		require.Equal(t, "queue", counts.Queue)
		require.EqualValues(t, orders*rounds, counts.Applied)
		require.Len(t, counts.Consumers, 3)
		var sum int64
		for _, consumer := range counts.Consumers {
			sum += consumer.Applied
		}
		require.Equal(t, counts.Applied, sum)
		var total int64
		require.NoError(t, db.NewSelect().Model((*stats.Order)(nil)).ColumnExpr("sum(total)").Scan(t.Context(), &total))
		require.EqualValues(t, orders*(rounds-1), total, "each order is at its last state")
	})
}

func TestBadDatesAreAnsweredByTheNameOfTheParameter(t *testing.T) {
	t.Parallel()
	_, url := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	const want = " is not a date, want one like 2026-12-31"
	for query, problems := range map[string]string{
		"":                                         `"from: \"\"` + want + `", "to: \"\"` + want + `"`,
		"?from=2026-02-30&to=2026-03-01":           `"from: \"2026-02-30\"` + want + `"`,
		"?from=2026-03-01&to=today":                `"to: \"today\"` + want + `"`,
		"?from=2026-03-02&to=2026-03-01":           `"to: 2026-03-01 is before from"`,
		"?form=2026-03-02&to=2026-03-02":           `"form: unknown parameter, want from, to, zone"`,
		"?from=2026-03-02&from=x&to=2026-03-02":    `"from: given 2 times"`,
		"?from=0000-01-01&to=0999-12-31":           `"from: 0000-01-01 is before the year 1000", "to: 0999-12-31 is before the year 1000"`,
		"?from=2026-03-02&to=10000-01-01":          `"to: \"10000-01-01\"` + want + `"`,
		"?from=2026-03-02&to=2026-03-02&zone=CEST": `"zone: \"CEST\" is not a time zone, want one like UTC or Europe/Berlin"`,
		"?from=2026-03-02&to=x&zone=Local":         `"zone: \"Local\" is not a time zone, want one like UTC or Europe/Berlin", "to: \"x\"` + want + `"`,
		"?from=2026-03-02T00:00&to=1.1.1":          `"from: \"2026-03-02T00:00\"` + want + `", "to: \"1.1.1\"` + want + `"`,
	} {
		status, body := get(t, url+"/stats/orders"+query)
		require.Equal(t, http.StatusBadRequest, status, query)
		require.JSONEq(t, `{"errors": [`+problems+`]}`, body, query)
	}
}

func TestTheServiceIsReadyOnceItHasSubscribed(t *testing.T) {
	t.Parallel()
	service, url := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	status, _ := get(t, url+"/ready")
	require.Equal(t, http.StatusServiceUnavailable, status)
	mastertest.Start(t, service)
	status, _ = get(t, url+"/ready")
	require.Equal(t, http.StatusNoContent, status)
}

func order(id int64, status string, total int64, created string) string {
	return fmt.Sprintf(`{"id": %d, "customer": "Ada", "status": %q, "total": %d, "created_at": %q, "lines": []}`,
		id, status, total, created)
}

func serve(t *testing.T, db *bun.DB) (*stats.Service, string) {
	service, err := stats.New(t.Context(), db, "queue", stats.Config{Consumers: 3})
	require.NoError(t, err)
	server := httptest.NewServer(service.Handler())
	t.Cleanup(server.Close)
	return service, server.URL
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}
