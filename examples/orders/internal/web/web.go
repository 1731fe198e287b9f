// Package web is what the services of the example share of HTTP: handlers that return a value or an
// error, JSON in and out, and a server that stops gracefully.
package web

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
)

// ErrNotFound is answered with 404.
var ErrNotFound = errors.New("not found")

// ErrTooLarge is answered with 413.
var ErrTooLarge = errors.New("too large")

// ConflictError is answered with 409: the request is right, but not in
// the state that things are in.
type ConflictError string

func (e ConflictError) Error() string { return string(e) }

// InvalidError is what the client can correct, answered with 400: every
// problem at once, each naming its field.
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
	var conflict ConflictError
	switch {
	case errors.As(err, &invalid):
		return Response{Status: http.StatusBadRequest, Body: problems(invalid)}
	case errors.Is(err, ErrNotFound):
		return Response{Status: http.StatusNotFound, Body: problems{err.Error()}}
	case errors.As(err, &conflict):
		return Response{Status: http.StatusConflict, Body: problems{conflict.Error()}}
	case errors.Is(err, ErrTooLarge):
		return Response{Status: http.StatusRequestEntityTooLarge, Body: problems{err.Error()}}
	case r.Context().Err() == nil:
		slog.ErrorContext(r.Context(), "request failed",
			"method", r.Method, "path", r.URL.Path, "error", err)
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
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // the answer is JSON and says so; "&" shall be readable in a URL
	if err := encoder.Encode(response.Body); err != nil && r.Context().Err() == nil {
		slog.WarnContext(r.Context(), "response cut short", "path", r.URL.Path, "error", err)
	}
}
