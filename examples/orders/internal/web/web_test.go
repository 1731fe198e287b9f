package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

func TestWhatAHandlerReturnsIsTheAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		response web.Response
		err      error
		status   int
		body     string
	}{
		"a value":         {web.Response{Body: 1}, nil, http.StatusOK, "1\n"},
		"nothing":         {web.Response{}, nil, http.StatusNoContent, ""},
		"a chosen status": {web.Response{Status: http.StatusCreated, Body: 1}, nil, http.StatusCreated, "1\n"},
		"invalid":         {web.Response{}, fmt.Errorf("read: %w", web.InvalidError{"a: b", "c"}), http.StatusBadRequest, `{"errors":["a: b","c"]}` + "\n"},
		"not found":       {web.Response{}, fmt.Errorf("order 1: %w", web.ErrNotFound), http.StatusNotFound, `{"errors":["order 1: not found"]}` + "\n"},
		"a conflict": {web.Response{}, fmt.Errorf("x: %w", web.ConflictError("it is gone")),
			http.StatusConflict, `{"errors":["it is gone"]}` + "\n"},
		"any other failure": {web.Response{}, errors.New("password is 1234"), http.StatusInternalServerError, `{"errors":["internal error"]}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder := httptest.NewRecorder()
			handler := web.Handler(func(*http.Request) (web.Response, error) { return test.response, test.err })
			handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			require.Equal(t, test.status, recorder.Code)
			require.Equal(t, test.body, recorder.Body.String())
		})
	}
}

type thing struct {
	Name  string  `json:"name"`
	Count int64   `json:"count"`
	Sure  bool    `json:"sure"`
	Parts []thing `json:"parts"`
}

func TestABodyThatIsWrongIsDescribedWithoutOurTypes(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"":                               "body: empty, want a JSON object",
		" \n":                            "body: empty, want a JSON object",
		"{":                              "body: the JSON ends too early",
		"x":                              "body: invalid character 'x' looking for beginning of value",
		"[]":                             "body: a list, want an object",
		"7":                              "body: a number, want an object",
		`{}{}`:                           "body: something follows the JSON object",
		`{"nome": 1}`:                    `body: unknown field "nome"`,
		`{"name": 7}`:                    "name: a number, want a text",
		`{"name": {}}`:                   "name: an object, want a text",
		`{"count": "7"}`:                 "count: a text, want a whole number of 64 bits",
		`{"count": 1.5}`:                 "count: 1.5, want a whole number of 64 bits",
		`{"count": 1e99}`:                "count: 1e99, want a whole number of 64 bits",
		`{"count": 9223372036854775808}`: "count: 9223372036854775808, want a whole number of 64 bits",
		`{"sure": 1}`:                    "sure: a number, want true or false",
		`{"parts": {}}`:                  "parts: an object, want a list",
		`{"parts": [{"name": true}]}`:    "parts.name: true or false, want a text",
		`{"parts": [7]}`:                 "parts: a number, want an object",
	} {
		_, err := web.Read[thing](httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body)))
		require.ErrorAs(t, err, new(web.InvalidError), body)
		require.EqualError(t, err, want, body)
	}
	long := `{"` + strings.Repeat("é", 1000) + `": 1}`
	_, err := web.Read[thing](httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(long)))
	require.Less(t, len(err.Error()), 200, "an answer does not repeat what a client sends")
	require.True(t, utf8.ValidString(err.Error()))
}

// Whatever a client sends, the answer does not speak of Go.
func FuzzBody(f *testing.F) {
	for _, body := range []string{"{}", `{"name": 7}`, `{"parts": [[]]}`, `{"count": 1e400}`, "[", "null", "\xff"} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		_, err := web.Read[thing](httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body)))
		if err == nil {
			return
		}
		require.ErrorAs(t, err, new(web.InvalidError))
		if !strings.Contains(body, "Go") && !strings.Contains(body, "thing") {
			require.NotContains(t, err.Error(), "Go ")
			require.NotContains(t, err.Error(), "thing.")
		}
	})
}

func TestRoutesAnswerInJSONWhateverIsAsked(t *testing.T) {
	t.Parallel()
	routes := &web.Routes{}
	routes.Handle("GET /things/{id}", func(r *http.Request) (web.Response, error) {
		id, err := web.PathID(r)
		return web.Response{Body: id}, err
	})
	routes.Handle("PUT /things/{id}", func(r *http.Request) (web.Response, error) {
		_, err := web.Read[thing](r)
		return web.Response{}, err
	})
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{http.MethodGet, "/things/7", "", http.StatusOK, "7"},
		{http.MethodGet, "/", "", http.StatusNotFound, `{"errors": ["not found: GET /"]}`},
		{http.MethodGet, "/things/7/", "", http.StatusNotFound, `{"errors": ["not found: GET /things/7/"]}`},
		{http.MethodPost, "/things/7", "", http.StatusMethodNotAllowed,
			`{"errors": ["POST is not allowed here, want GET or HEAD or PUT"]}`},
		{http.MethodGet, "/things/07", "", http.StatusBadRequest, `{"errors": ["id: \"07\" is not a positive integer"]}`},
		{http.MethodGet, "/things/+7", "", http.StatusBadRequest, `{"errors": ["id: \"+7\" is not a positive integer"]}`},
		{http.MethodGet, "/things/7?verbose=1", "", http.StatusBadRequest,
			`{"errors": ["verbose: unknown parameter, want none"]}`},
		{http.MethodPut, "/things/7", `"` + strings.Repeat("x", 2<<20), http.StatusRequestEntityTooLarge,
			`{"errors": ["body: too large, want at most 1048576 bytes"]}`},
	} {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), test.method, test.path, strings.NewReader(test.body))
		routes.ServeHTTP(recorder, request)
		require.Equal(t, test.status, recorder.Code, test.path)
		require.Equal(t, "application/json", recorder.Header().Get("Content-Type"), test.path)
		require.JSONEq(t, test.want, recorder.Body.String(), test.path)
	}
}

func TestParametersThatNobodyAskedForAreErrors(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                  "",
		"from=1&to=2":       "",
		"form=1":            "form: unknown parameter, want from, to",
		"from=1&from=2":     "from: given 2 times",
		"b=1&a=2&to=1&to=1": "a: unknown parameter, want from, to; b: unknown parameter, want from, to; to: given 2 times",
		"from=%zz":          `query: invalid URL escape "%zz"`,
		"from=1;to=2":       "query: invalid semicolon separator in query",
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		request.URL.RawQuery = query
		_, err := web.Parameters(request, "from", "to")
		if want == "" {
			require.NoError(t, err, query)
		} else {
			require.EqualError(t, err, want, query)
		}
	}
}

func TestAPageIsBounded(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                 "50 0",
		"limit=1&after=7":  "1 7",
		"limit=200":        "200 0",
		"limit=201":        `limit: "201", want 1 to 200`,
		"limit=0&after=-1": `limit: "0", want 1 to 200; after: "-1" is not a positive integer`,
		"limit=&after=":    `limit: "", want 1 to 200; after: "" is not a positive integer`,
		"limit=1e3":        `limit: "1e3", want 1 to 200`,
	} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		page, err := web.PageOf(values, "after")
		got := fmt.Sprint(page.Limit, page.From)
		if err != nil {
			got = err.Error()
		}
		require.Equal(t, want, got, query)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/things?limit=2&after=3&name=a%26b", nil)
	require.Equal(t, "/things?after=5&limit=2&name=a%26b", web.Next(request, "after", 5))
}

func TestAServiceIsReadyWhenNothingIsMissing(t *testing.T) {
	t.Parallel()
	subscribed := make(chan struct{})
	var broken error
	ready := web.Handler(web.Ready(web.Subscribed(subscribed), web.Database(func(context.Context) error { return broken })))
	ask := func() (int, string) {
		recorder := httptest.NewRecorder()
		ready.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/ready", nil))
		return recorder.Code, recorder.Body.String()
	}
	broken = errors.New("dial postgres.internal: password 1234 is wrong")
	status, body := ask()
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"errors": ["not subscribed yet", "the database does not answer"]}`, body)
	close(subscribed)
	broken = nil
	status, _ = ask()
	require.Equal(t, http.StatusNoContent, status)
}

func TestServeFinishesWhatIsRunningWhenItIsStopped(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	entered, answer := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- web.Serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-answer
			_, _ = io.WriteString(w, "finished")
		}))
	}()
	heard := make(chan string, 1)
	go func() {
		response, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			heard <- err.Error()
			return
		}
		text, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		heard <- string(text)
	}()
	<-entered
	stop()
	close(answer)
	require.Equal(t, "finished", <-heard)
	require.NoError(t, <-ended)
}

func TestServeSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.ErrorContains(t, web.Serve(t.Context(), listener, http.NotFoundHandler()), "serve 127.0.0.1:")
}
