// Package web is what the three services of the example share of HTTP: handlers that return a value or an error, JSON
// in and out, and a server that stops gracefully.
package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
)

// maxBody bounds what a client can make a service hold in memory.
const maxBody = 1 << 20

// ErrNotFound is answered with 404.
var ErrNotFound = errors.New("not found")

// InvalidError is what the client can correct, answered with 400: every problem at once, each naming its field.
type InvalidError []string

func (e InvalidError) Error() string { return strings.Join(e, "; ") }

// Response is what a handler answers. Status zero means 200; without Body it means 204.
type Response struct {
	Status   int
	Location string
	Body     any
}

// Handler makes an http.Handler of a function that returns what to answer.
func Handler(fn func(r *http.Request) (Response, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		response, err := fn(r)
		if err != nil {
			response = failure(r, err)
		}
		write(w, r, response)
	})
}

func failure(r *http.Request, err error) Response {
	var invalid InvalidError
	switch {
	case errors.As(err, &invalid):
		return Response{Status: http.StatusBadRequest, Body: problems(invalid)}
	case errors.Is(err, ErrNotFound):
		return Response{Status: http.StatusNotFound, Body: problems{err.Error()}}
	case r.Context().Err() == nil:
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	return Response{Status: http.StatusInternalServerError, Body: problems{"internal error"}}
}

type problems []string

// MarshalJSON writes the problems as {"errors": […]}.
func (p problems) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string][]string{"errors": p})
}

func write(w http.ResponseWriter, r *http.Request, response Response) {
	status := response.Status
	if response.Location != "" {
		w.Header().Set("Location", response.Location)
	}
	if response.Body == nil {
		if status == 0 {
			status = http.StatusNoContent
		}
		w.WriteHeader(status)
		return
	}
	if status == 0 {
		status = http.StatusOK
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(response.Body); err != nil && r.Context().Err() == nil {
		slog.WarnContext(r.Context(), "response cut short", "path", r.URL.Path, "error", err)
	}
}

// Read decodes the request's body. An unknown field is an error: it is a misspelt one.
func Read[T any](r *http.Request) (T, error) {
	var v T
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return v, InvalidError{"body: empty, want a JSON object"}
		}
		return v, InvalidError{"body: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return v, InvalidError{"body: something follows the JSON object"}
	}
	return v, nil
}

// PathID reads the path's {id}.
func PathID(r *http.Request) (int64, error) { return ID("id", r.PathValue("id")) }

// ID reads an id, a positive integer, from the text of the parameter name.
func ID(name, text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, InvalidError{fmt.Sprintf("%s: %q is not a positive integer", name, text)}
	}
	return id, nil
}

// Ready answers 204 once ready is closed, and 503 before.
func Ready(ready <-chan struct{}) http.Handler {
	return Handler(func(*http.Request) (Response, error) {
		select {
		case <-ready:
			return Response{}, nil
		default:
			return Response{Status: http.StatusServiceUnavailable, Body: problems{"not subscribed yet"}}, nil
		}
	})
}
