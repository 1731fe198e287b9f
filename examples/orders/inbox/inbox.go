// Package inbox is a subscriber to try the example with: it checks each delivery as a subscriber
// should, and has paths on which it behaves badly.
package inbox

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
)

// keep is how many receipts are kept; of real subscribers, as many as can come twice.
const keep = 1000

// Inbox is the subscriber.
type Inbox struct {
	secrets func(ctx context.Context, url string) ([]string, error)
	now     func() time.Time
	ending  <-chan struct{} // what hangs on purpose ends with it

	mu       sync.Mutex
	receipts []*Receipt
}

// Receipt is what was heard.
type Receipt struct {
	Path     string          `json:"path"`
	Message  string          `json:"message"`
	Action   webhooks.Action `json:"action"`
	Order    int64           `json:"order,omitempty"`
	Revision int64           `json:"revision"`
	Times    int             `json:"times"` // how often it came; the work is done once
}

// New makes an inbox. secrets finds what the deliveries to a URL are signed with; a subscriber of
// your own has its secret from when it subscribed.
func New(
	secrets func(ctx context.Context, url string) ([]string, error), now func() time.Time,
) *Inbox {
	return &Inbox{secrets: secrets, now: now}
}

// Serve answers HTTP until ctx ends.
func (i *Inbox) Serve(ctx context.Context, listener net.Listener) error {
	i.ending = ctx.Done()
	return web.Serve(ctx, listener, i.Handler())
}

// Handler is the inbox's HTTP interface.
func (i *Inbox) Handler() http.Handler {
	routes := &web.Routes{}
	routes.Handle("POST /inbox", i.receive)
	routes.Handle("GET /inbox", i.list)
	routes.Handle("POST /fail", i.badly(http.StatusInternalServerError))
	routes.Handle("POST /redirect", i.badly(http.StatusFound))
	routes.Handle("POST /flaky", i.flaky)
	routes.Handle("GET /ready", web.Ready())
	all := http.NewServeMux()
	all.HandleFunc("POST /hang", i.hang)
	all.HandleFunc("POST /slow", i.slow)
	all.Handle("/", routes)
	return all
}

// receive is what a subscriber does: check the signature, then do the work unless the id is known.
func (i *Inbox) receive(r *http.Request) (web.Response, error) {
	receipt, err := i.check(r)
	if err != nil {
		return web.Response{}, err
	}
	i.note(receipt)
	return web.Response{}, nil
}

func (i *Inbox) check(r *http.Request) (*Receipt, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	secrets, err := i.secrets(r.Context(), "http://"+r.Host+r.URL.Path)
	if err != nil {
		return nil, err
	}
	id, err := webhooks.Verify(r.Header, body, i.now(), secrets...)
	if err != nil {
		return nil, web.InvalidError{err.Error()}
	}
	var event struct {
		Action webhooks.Action `json:"action"`
		Order  struct {
			ID       int64 `json:"id"`
			Revision int64 `json:"revision"`
		} `json:"order"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return nil, web.InvalidError{"body: not a delivery"}
	}
	return &Receipt{
		Path: r.URL.Path, Message: id, Action: event.Action,
		Order: event.Order.ID, Revision: event.Order.Revision,
	}, nil
}

// note does the work of a delivery once, however often it comes, and returns how often it came.
func (i *Inbox) note(receipt *Receipt) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := slices.IndexFunc(i.receipts, func(r *Receipt) bool { return r.Message == receipt.Message })
	if at < 0 {
		i.receipts = append(i.receipts, receipt)
		if len(i.receipts) > keep {
			i.receipts = slices.Delete(i.receipts, 0, 1)
		}
		at = len(i.receipts) - 1
	}
	i.receipts[at].Times++
	return i.receipts[at].Times
}

// list answers with what was heard, the oldest first.
func (i *Inbox) list(r *http.Request) (web.Response, error) {
	if _, err := web.Parameters(r); err != nil {
		return web.Response{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	heard := []Receipt{}
	for _, receipt := range i.receipts {
		heard = append(heard, *receipt)
	}
	return web.Response{Body: map[string]any{"heard": heard}}, nil
}
