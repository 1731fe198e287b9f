package inbox

import (
	"io"
	"net/http"
	"time"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// badly answers with a status that is not 2xx.
func (i *Inbox) badly(status int) func(*http.Request) (web.Response, error) {
	return func(r *http.Request) (web.Response, error) {
		if _, err := i.check(r); err != nil {
			return web.Response{}, err
		}
		return web.Response{Status: status, Location: "/inbox"}, nil
	}
}

// flaky fails twice, then takes the delivery.
func (i *Inbox) flaky(r *http.Request) (web.Response, error) {
	receipt, err := i.check(r)
	if err != nil {
		return web.Response{}, err
	}
	if i.note(receipt) < 3 {
		return web.Response{Status: http.StatusServiceUnavailable}, nil
	}
	return web.Response{}, nil
}

// hang never answers.
func (i *Inbox) hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = i.check(r) // the server notices that the caller is gone once the body is read
	select {
	case <-r.Context().Done():
	case <-i.ending:
	}
}

// slow answers 200 at once, with a body that does not end.
func (i *Inbox) slow(w http.ResponseWriter, r *http.Request) {
	if receipt, err := i.check(r); err == nil {
		i.note(receipt)
	}
	w.WriteHeader(http.StatusOK)
	drip := time.NewTicker(50 * time.Millisecond)
	defer drip.Stop()
	for {
		if _, err := io.WriteString(w, "."); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-i.ending:
			return
		case <-drip.C:
		}
	}
}
