package webhooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// subscriber is somebody who wants to hear of orders.
type subscriber struct {
	url     string
	answers chan int // status codes to answer with; without one, 204
	heard   chan string
	posts   chan post
}

// post is a delivery as it came.
type post struct {
	header http.Header
	body   []byte
}

func listen(t *testing.T) *subscriber {
	s := &subscriber{answers: make(chan int, 10), heard: make(chan string, 100), posts: make(chan post, 100)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *subscriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var event struct {
		Action string
		Order  struct {
			Status   string
			Revision int
		}
	}
	body, err := io.ReadAll(r.Body)
	s.posts <- post{r.Header, body}
	if err := errors.Join(err, json.Unmarshal(body, &event)); err != nil || r.Method != http.MethodPost {
		s.heard <- fmt.Sprint("not a webhook: ", r.Method, err)
	}
	s.heard <- fmt.Sprintf("%s %s %d", event.Action, event.Order.Status, event.Order.Revision)
	select {
	case status := <-s.answers:
		w.Header().Set("Location", "/")
		w.WriteHeader(status)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *subscriber) next(t *testing.T) string {
	t.Helper()
	select {
	case heard := <-s.heard:
		return heard
	case <-time.After(20 * time.Second):
		require.FailNow(t, "the subscriber heard nothing")
		return ""
	}
}

// run runs something that blocks until the test ends.
func run(t *testing.T, fn func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fn(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
}
