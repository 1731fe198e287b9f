package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

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
		"a value":           {web.Response{Body: 1}, nil, http.StatusOK, "1\n"},
		"nothing":           {web.Response{}, nil, http.StatusNoContent, ""},
		"a chosen status":   {web.Response{Status: http.StatusCreated, Body: 1}, nil, http.StatusCreated, "1\n"},
		"invalid":           {web.Response{}, fmt.Errorf("read: %w", web.InvalidError{"a: b", "c"}), http.StatusBadRequest, `{"errors":["a: b","c"]}` + "\n"},
		"not found":         {web.Response{}, fmt.Errorf("order 1: %w", web.ErrNotFound), http.StatusNotFound, `{"errors":["order 1: not found"]}` + "\n"},
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
