package stats_test

import (
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
		require.JSONEq(t, `{"from": "2026-10-31", "to": "2026-11-30",
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
		require.JSONEq(t, `{"from": "2020-01-01", "to": "2020-12-31", "days": [], "months": []}`, body)
	})
}

func TestBadDatesAreAnsweredByTheNameOfTheParameter(t *testing.T) {
	t.Parallel()
	_, url := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	const want = " is not a date, want one like 2026-12-31"
	for query, problems := range map[string]string{
		"":                                `"from: \"\"` + want + `", "to: \"\"` + want + `"`,
		"?from=2026-02-30&to=2026-03-01":  `"from: \"2026-02-30\"` + want + `"`,
		"?from=2026-03-01&to=today":       `"to: \"today\"` + want + `"`,
		"?from=2026-03-02&to=2026-03-01":  `"to: 2026-03-01 is before from"`,
		"?from=2026-03-02T00:00&to=1.1.1": `"from: \"2026-03-02T00:00\"` + want + `", "to: \"1.1.1\"` + want + `"`,
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
	service, err := stats.New(t.Context(), db, "queue")
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
