package dashboard_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/dashboard"
)

func TestPagesShowHowThingsStand(t *testing.T) {
	each(t, dashboard.Config{}, func(s scene) {
		require.Contains(s, s.get("/"), "Everything is moving. No replica has reported.")
		s.exec("INSERT INTO outbox_replicas (queue, models, first_at, reported_at) "+
			"VALUES ('st ats', ?, ?, ?)", `["order"]`, s.at(time.Hour), s.at(5*time.Second))
		s.exec("INSERT INTO outbox_replica_instances (queue, instance, pace, reported_at, report) "+
			"VALUES ('st ats', 'one', 10000000, ?, ?)", s.at(5*time.Second), `{"library":"v1.2.3",
			"models":[{"id":"order","dead_letters":1,"stuck":[{"dead":true,"count":1,
			"error":"no <room>","first":"2026-01-01T00:00:00Z","last":"2026-01-01T00:00:00Z",
			"keys":["<i>9</i>"]}]}]}`)
		s.exec(`INSERT INTO outbox_retries (model, "key", attempts, next_attempt_at, last_error, since) `+
			"VALUES ('order', '17', 4, ?, 'the queue is full', ?)", s.at(0), s.at(12*time.Minute+time.Second))
		s.letter(1, "18", "too large", `{"id": 18, "password": "hunter2", "note": "<b>x</b>"}`)
		require.Eventually(s, func() bool { return strings.Contains(s.get("/"), "order 17") },
			time.Minute, 10*time.Millisecond)
		overview := s.get("/")
		require.Contains(s, overview, "order 17 waits for 12 min: the broker does not take it: the "+
			"queue is full. And 2 other troubles.")
		require.Contains(s, overview, "docs/operations.md#keys-wait")
		replicas := s.get("/replicas")
		require.Contains(s, replicas, "v1.2.3")
		stuck := s.get("/stuck")
		require.Contains(s, stuck, "too large")
		require.Contains(s, stuck, "no &lt;room&gt;")
		require.NotContains(s, stuck, "<i>9")
		require.Contains(s, stuck, `href="key?q=order+%3ci%3e9%3c%2fi%3e"`)
		letter := s.get("/letter?id=1")
		require.NotContains(s, letter, "hunter2")
		require.Contains(s, letter, "••••••")
		require.NotContains(s, letter, "<b>x")
		require.NotContains(s, letter, "Purge", "the dashboard only shows")
		for _, page := range []string{overview, replicas, stuck, letter} {
			require.NotContains(s, page, `action="do"`)
			require.NotContains(s, page, "confirm?")
		}
	})
}

func TestAKeyIsFound(t *testing.T) {
	each(t, dashboard.Config{}, func(s scene) {
		s.exec(`INSERT INTO outbox_revisions (model, "key", revision, produced, deleted, updated_at) `+
			"VALUES ('order', '17', 5, 5, ?, ?)", false, s.at(time.Minute))
		require.Contains(s, s.get("/key?q=order+17"),
			"order 17 is at revision 5 on the master. No replica takes the model.")
		require.Contains(s, s.get("/key?q=order+18"), "order 18 is not known on the master.")
		require.Contains(s, s.get("/key?q=order"), "want a model and a key, as in: order 17")
		require.NotContains(s, s.get("/key?q=%3Cscript%3E+1"), "<script> ")
		require.NotContains(s, s.get("/key"), "want a model")
	})
}

func TestWhatIsNotThereSaysSo(t *testing.T) {
	s := one(t, dashboard.Config{})
	for path, status := range map[string]int{
		"/letter?id=7": http.StatusNotFound, "/letter?id=x": http.StatusNotFound,
		"/nothing": http.StatusNotFound, "/events?page=x": http.StatusBadRequest,
		"/confirm?do=purge": http.StatusNotFound,
	} {
		response, body := s.ask(http.MethodGet, path)
		require.Equal(s, status, response.StatusCode, "%s: %s", path, body)
	}
	response, _ := s.ask(http.MethodPost, "/do")
	require.Equal(s, http.StatusNotFound, response.StatusCode, "actions are off")
	response, _ = s.ask(http.MethodPost, "/")
	require.Equal(s, http.StatusMethodNotAllowed, response.StatusCode)
}

func TestADatabaseThatIsAwayIsSaidOnEachPage(t *testing.T) {
	s := one(t, dashboard.Config{})
	require.NoError(s, s.db.Close())
	for _, page := range []string{"/", "/replicas", "/stuck"} {
		require.Contains(s, s.get(page), "The master&#39;s database does not answer", page)
	}
	require.Contains(s, s.get("/key?q=order+17"), "database is closed")
}

func TestAPageIsKeptFresh(t *testing.T) {
	each(t, dashboard.Config{}, func(s scene) {
		server := httptest.NewServer(s.page)
		defer server.Close()
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/events?page=overview", nil)
		require.NoError(s, err)
		response, err := server.Client().Do(r)
		require.NoError(s, err)
		defer func() { _ = response.Body.Close() }()
		require.Equal(s, "text/event-stream", response.Header.Get("Content-Type"))
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 1<<20)
		next := func(want string) {
			s.Helper()
			for lines.Scan() {
				if strings.Contains(lines.Text(), want) {
					return
				}
			}
			s.Fatalf("%q did not come: %v", want, lines.Err())
		}
		next("Everything is moving")
		s.letter(1, "18", "too large", "{}")
		next("order 18 was given up")
		cancel()
	})
}

func TestRunKeepsThePlotsUntilItEnds(t *testing.T) {
	s := one(t, dashboard.Config{})
	ctx, stop := context.WithCancel(s.Context())
	ended := make(chan error)
	go func() { ended <- s.page.Run(ctx) }()
	require.Eventually(s, func() bool {
		return strings.Contains(s.get("/"), "Unsent messages: now 0, at most 0")
	}, time.Minute, 10*time.Millisecond)
	stop()
	require.NoError(s, <-ended)
}

func TestItIsMountedAnywhere(t *testing.T) {
	s := one(t, dashboard.Config{})
	mux := http.NewServeMux()
	mux.Handle("/ops/cqrsync/", http.StripPrefix("/ops/cqrsync", s.page))
	mux.Handle("/ops/cqrsync", http.StripPrefix("/ops/cqrsync", s.page))
	server := httptest.NewServer(mux)
	defer server.Close()
	for _, path := range []string{"/ops/cqrsync", "/ops/cqrsync/", "/ops/cqrsync/stuck"} {
		r, err := http.NewRequestWithContext(s.Context(), http.MethodGet, server.URL+path, nil)
		require.NoError(s, err)
		response, err := server.Client().Do(r)
		require.NoError(s, err)
		require.NoError(s, response.Body.Close())
		require.Equal(s, http.StatusOK, response.StatusCode, path)
		require.True(s, strings.HasPrefix(response.Request.URL.Path, "/ops/cqrsync/"))
	}
}

// What a browser loads is small, and has nothing that the policy forbids.
func TestAssetsAreSmallAndKeepThePolicy(t *testing.T) {
	files, err := filepath.Glob("assets/*")
	require.NoError(t, err)
	size := 0
	for _, file := range files {
		body, err := os.ReadFile(file)
		require.NoError(t, err)
		size += len(body)
		require.NotContains(t, string(body), "style=", file)
		require.NotContains(t, string(body), " onclick", file)
		require.NotContains(t, string(body), "https://", file)
	}
	require.Less(t, size, 150_000)
}

func TestWhatIsWrongWithTheConfigIsSaidAtOnce(t *testing.T) {
	_, err := dashboard.Handler(dashboard.Config{Token: "short", UserHeader: "X-User"})
	require.ErrorContains(t, err, "Tables is nil")
	require.ErrorContains(t, err, "the Token has 5 characters")
	require.ErrorContains(t, err, "more than one")
	require.NotContains(t, err.Error(), "short")
}
