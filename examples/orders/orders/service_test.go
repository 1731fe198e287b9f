package orders_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

const book = `{"customer": "Ada", "lines": [{"sku": "book", "quantity": 2, "price": 1250}, {"sku": "pen", "quantity": 1, "price": 99}]}`

func TestAnOrderIsCreatedReadReplacedAndDeleted(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		api := serve(t, db)

		status, body, header := api.call(http.MethodPost, "/orders", book)
		require.Equal(t, http.StatusCreated, status, body)
		created := decode(t, body)
		require.Equal(t, "new", created.Status)
		require.EqualValues(t, 2599, created.Total)
		require.Equal(t, "/orders/1", header.Get("Location"))

		status, body, _ = api.call(http.MethodGet, "/orders/1", "")
		require.Equal(t, http.StatusOK, status, body)
		require.Equal(t, created, decode(t, body))

		status, body, _ = api.call(http.MethodPut, "/orders/1",
			`{"customer": "Grace", "status": "paid", "lines": [{"sku": "ink", "quantity": 3, "price": 10}]}`)
		require.Equal(t, http.StatusOK, status, body)
		replaced := decode(t, body)
		require.Equal(t, "Grace", replaced.Customer)
		require.Equal(t, "paid", replaced.Status)
		require.EqualValues(t, 30, replaced.Total)
		require.Len(t, replaced.Lines, 1)
		require.Equal(t, created.CreatedAt, replaced.CreatedAt)
		require.True(t, replaced.UpdatedAt.After(created.UpdatedAt))

		status, body, _ = api.call(http.MethodDelete, "/orders/1", "")
		require.Equal(t, http.StatusNoContent, status, body)
		status, _, _ = api.call(http.MethodGet, "/orders/1", "")
		require.Equal(t, http.StatusNotFound, status)
		lines, err := db.NewSelect().Model((*orders.Line)(nil)).Count(t.Context())
		require.NoError(t, err)
		require.Zero(t, lines, "lines go with their order")
	})
}

func TestEveryChangeOfAnOrderIsOneMessage(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		api := serve(t, db)
		api.call(http.MethodPost, "/orders", book)
		api.call(http.MethodPut, "/orders/1", strings.Replace(book, `{`, `{"status": "paid", `, 1))
		api.call(http.MethodDelete, "/orders/1", "")
		api.call(http.MethodDelete, "/orders/1", "")  // is not there any more
		api.call(http.MethodPut, "/orders/1", `{}`)   // is refused
		api.call(http.MethodPost, "/orders", `{"id"`) // is refused

		var signals []string
		var data []string
		err := db.NewRaw("SELECT m.signal, m.data FROM outbox_messages AS m ORDER BY m.id").Scan(t.Context(), &signals, &data)
		require.NoError(t, err)
		require.Equal(t, []string{"SAVE", "SAVE", "DELETE"}, signals)
		var message struct{ Lines []struct{ SKU string } }
		require.NoError(t, json.Unmarshal([]byte(data[0]), &message))
		require.Len(t, message.Lines, 2, "the message carries the order's lines")
	})
}

func TestInvalidOrdersAreAnsweredWithEveryProblem(t *testing.T) {
	t.Parallel()
	api := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for name, test := range map[string]struct {
		method, path, body string
		want               []string
	}{
		"empty body":    {http.MethodPost, "/orders", "", []string{"body: empty, want a JSON object"}},
		"not JSON":      {http.MethodPost, "/orders", "x", []string{"body: invalid character 'x' looking for beginning of value"}},
		"trailing data": {http.MethodPost, "/orders", book + "{}", []string{"body: something follows the JSON object"}},
		"unknown field": {http.MethodPost, "/orders", `{"custommer": "Ada"}`, []string{`body: unknown field "custommer"`}},
		"nothing in it": {http.MethodPost, "/orders", "{}", []string{"customer: missing", "lines: 0 given, want 1 to 1000"}},
		"a list":        {http.MethodPost, "/orders", "[]", []string{"body: a list, want an object"}},
		"a wrong type":  {http.MethodPost, "/orders", `{"lines": [{"quantity": "2"}]}`, []string{"lines.quantity: a text, want a whole number of 64 bits"}},
		"a total too large": {http.MethodPost, "/orders", `{"customer": "Ada", "lines": [{"sku": "moon", "quantity": 1001, "price": 1000000000}]}`,
			[]string{"lines: 1001000000000 cents in all, want at most 1000000000000"}},
		"not UTF-8":             {http.MethodPost, "/orders", strings.Replace(book, "Ada", "A\xff", 1), []string{"customer: contains something that is not UTF-8"}},
		"half a character":      {http.MethodPost, "/orders", strings.Replace(book, "Ada", `\ud83d`, 1), []string{"customer: contains something that is not UTF-8"}},
		"a parameter":           {http.MethodPost, "/orders?dry-run=1", book, []string{"dry-run: unknown parameter, want none"}},
		"a page too long":       {http.MethodGet, "/orders?limit=1000", "", []string{`limit: "1000", want 1 to 200`}},
		"a status that is none": {http.MethodGet, "/orders?status=lost", "", []string{`status: "lost", want one of new, paid, shipped, cancelled`}},
		"a misspelt filter":     {http.MethodGet, "/orders?state=new", "", []string{"state: unknown parameter, want status, limit, after"}},
		"id not a number":       {http.MethodPut, "/orders/x", book, []string{`id: "x" is not a positive integer`}},
		"a PUT that leaves the status open": {http.MethodPut, "/orders/1", book,
			[]string{`status: "", want one of new, paid, shipped, cancelled`}},
		"bad values": {http.MethodPost, "/orders",
			`{"customer": "` + strings.Repeat("x", 201) + `", "status": "lost", "lines": [
				{"sku": "\u0000", "quantity": 0, "price": -1}, {"sku": " ", "quantity": 1, "price": 1000000001}]}`,
			[]string{
				"customer: 201 bytes, want at most 200",
				`status: "lost", want one of new, paid, shipped, cancelled`,
				"lines[0].sku: contains a NUL, which databases do not keep",
				"lines[0].quantity: 0, want 1 to 1000000",
				"lines[0].price (cents): -1, want 0 to 1000000000",
				"lines[1].sku: missing",
				"lines[1].price (cents): 1000000001, want 0 to 1000000000",
			}},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, _ := api.call(test.method, test.path, test.body)
			require.Equal(t, http.StatusBadRequest, status, body)
			var answer struct{ Errors []string }
			require.NoError(t, json.Unmarshal([]byte(body), &answer))
			require.Equal(t, test.want, answer.Errors)
		})
	}
}

func TestAnOrderThatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		api := serve(t, db)
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			status, body, _ := api.call(method, "/orders/7", strings.Replace(book, `{`, `{"status": "paid", `, 1))
			require.Equal(t, http.StatusNotFound, status, method)
			require.JSONEq(t, `{"errors": ["order 7: not found"]}`, body)
		}
	})
}

func TestOrdersAreListedPageByPage(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		api := serve(t, db)
		status, body, _ := api.call(http.MethodGet, "/orders", "")
		require.Equal(t, http.StatusOK, status)
		require.JSONEq(t, `{"orders": []}`, body)
		for range 5 {
			api.call(http.MethodPost, "/orders", book)
		}
		api.call(http.MethodPut, "/orders/2", strings.Replace(book, `{`, `{"status": "paid", `, 1))
		api.call(http.MethodPut, "/orders/5", strings.Replace(book, `{`, `{"status": "paid", `, 1))
		api.call(http.MethodDelete, "/orders/3", "")

		pages := func(path string) (ids [][]int64) {
			for path != "" {
				status, body, _ := api.call(http.MethodGet, path, "")
				require.Equal(t, http.StatusOK, status, body)
				require.NotContains(t, body, "lines")
				var list orders.List
				require.NoError(t, json.Unmarshal([]byte(body), &list))
				page := []int64{}
				for _, order := range list.Orders {
					page = append(page, order.ID)
				}
				ids, path = append(ids, page), list.Next
			}
			return ids
		}
		require.Equal(t, [][]int64{{1, 2, 4, 5}}, pages("/orders"))
		require.Equal(t, [][]int64{{1, 2, 4, 5}}, pages("/orders?limit=4"), "no empty page at the end")
		require.Equal(t, [][]int64{{1, 2}, {4, 5}}, pages("/orders?limit=2"))
		require.Equal(t, [][]int64{{1}, {2}, {4}, {5}}, pages("/orders?limit=1"))
		require.Equal(t, [][]int64{{2}, {5}}, pages("/orders?limit=1&status=paid"))
		require.Equal(t, [][]int64{{}}, pages("/orders?after=5"))
	})
}

func TestTheServiceIsReadyWhileItsDatabaseAnswers(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		api := serve(t, db)
		status, _, _ := api.call(http.MethodGet, "/ready", "")
		require.Equal(t, http.StatusNoContent, status)
		require.NoError(t, db.Close())
		status, body, _ := api.call(http.MethodGet, "/ready", "")
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.JSONEq(t, `{"errors": ["the database does not answer"]}`, body)
	})
}

// api is the service's HTTP interface.
type api struct {
	t   *testing.T
	url string
}

func serve(t *testing.T, db *bun.DB) api {
	service, err := orders.New(t.Context(), db, orders.Config{})
	require.NoError(t, err)
	server := httptest.NewServer(service.Handler())
	t.Cleanup(server.Close)
	return api{t, server.URL}
}

func (a api) call(method, path, body string) (status int, answer string, header http.Header) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	require.NoError(a.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(a.t, err)
	defer func() { require.NoError(a.t, response.Body.Close()) }()
	text, err := io.ReadAll(response.Body)
	require.NoError(a.t, err)
	return response.StatusCode, string(text), response.Header
}

func decode(t *testing.T, body string) orders.Order {
	t.Helper()
	var order orders.Order
	require.NoError(t, json.Unmarshal([]byte(body), &order))
	return order
}
