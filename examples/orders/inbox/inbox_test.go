package inbox_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/examples/orders/inbox"
)

// What hangs on purpose does not keep the process from ending.
func TestTheInboxStopsWhileSomebodyHangs(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/hang", "/slow"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan struct{})
			i := inbox.New(func(context.Context, string) ([]string, error) {
				close(arrived) // it is asked for the secrets of what it hears
				return nil, nil
			}, time.Now)
			var config net.ListenConfig
			listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			url := "http://" + listener.Addr().String()
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- i.Serve(ctx, listener) }()
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			asked := make(chan error, 1)
			go func() {
				response, err := client.Post(url+path, "application/json", strings.NewReader("{}"))
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				asked <- err
			}()
			<-arrived
			stop()
			require.NoError(t, <-ended)
			<-asked //nolint:errcheck // which error it is depends on where the answer stopped
		})
	}
}
