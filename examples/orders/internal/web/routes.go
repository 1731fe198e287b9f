package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Routes is an http.ServeMux whose handlers return what to answer, and whose own errors are JSON.
type Routes struct{ mux http.ServeMux }

// Handle adds a route, such as "GET /orders/{id}".
func (s *Routes) Handle(pattern string, fn func(r *http.Request) (Response, error)) {
	s.mux.Handle(pattern, Handler(fn))
}

// ServeHTTP answers a path without a route with 404 and a method without one with 405.
func (s *Routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handler, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	refusal := &headerOnly{header: w.Header()}
	handler.ServeHTTP(refusal, r)
	refusal.header.Del("X-Content-Type-Options")
	problem := "not found: " + r.Method + " " + Short(r.URL.Path)
	if allowed := refusal.header.Get("Allow"); allowed != "" {
		problem = r.Method + " is not allowed here, want " + strings.ReplaceAll(allowed, ", ", " or ")
	}
	write(w, r, Response{Status: refusal.status, Body: problems{problem}})
}

// headerOnly takes an answer's status and header, and forgets its text.
type headerOnly struct {
	header http.Header
	status int
}

func (h *headerOnly) Header() http.Header         { return h.header }
func (h *headerOnly) WriteHeader(status int)      { h.status = status }
func (h *headerOnly) Write(p []byte) (int, error) { return len(p), nil }

// patience is how long Ready waits for its checks.
const patience = 2 * time.Second

// Check is one thing that a service needs, and what to say while it is missing.
type Check struct {
	Missing string
	Ask     func(context.Context) error
}

// Subscribed is the check that ready is closed.
func Subscribed(ready <-chan struct{}) Check {
	return Check{"not subscribed yet", func(context.Context) error {
		select {
		case <-ready:
			return nil
		default:
			return errors.New("no subscription")
		}
	}}
}

// Database is the check that a database answers.
func Database(ping func(context.Context) error) Check {
	return Check{"the database does not answer", ping}
}

// Ready answers 204 while nothing is missing, and 503 with what is otherwise. The reasons are
// logged: they name hosts and users.
func Ready(checks ...Check) func(*http.Request) (Response, error) {
	return func(r *http.Request) (Response, error) {
		if _, err := Parameters(r); err != nil {
			return Response{}, err
		}
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		var missing problems
		for _, check := range checks {
			if err := check.Ask(ctx); err != nil {
				missing = append(missing, check.Missing)
				slog.WarnContext(ctx, "not ready", "missing", check.Missing, "error", err)
			}
		}
		if len(missing) > 0 {
			return Response{Status: http.StatusServiceUnavailable, Body: missing}, nil
		}
		return Response{}, nil
	}
}
