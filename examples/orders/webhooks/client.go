package webhooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// client posts deliveries.
type client struct {
	http.Client
	config Config
}

func newClient(config Config) *client {
	dialer := &net.Dialer{
		Timeout: config.Timeout, Control: config.Targets.control, Resolver: config.resolver,
	}
	return &client{config: config, Client: http.Client{
		// A redirect is an answer that is not 2xx: the subscriber's URL is wrong, and its owner
		// shall see it. Followed, it would lead to where nobody has looked.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		// There is no Proxy: it would dial in our place, past the check of the address.
		Transport: config.Transport(&http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    config.Timeout,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
		}),
	}}
}

// unreachable is all that is shown of a subscriber who did not answer. Whether a name exists, a
// port is closed or filtered, or an address forbidden, would make this service a scanner of its
// network for everybody who may subscribe. The log has it.
const unreachable = "the subscriber did not answer"

// post tries to deliver and returns what the history shall say.
func (c *client) post(ctx context.Context, delivery *Delivery, secret string) *Attempt {
	attempt := &Attempt{DeliveryID: delivery.ID, At: c.config.now()}
	status, err := c.send(ctx, delivery, secret, attempt.At)
	attempt.StatusCode = status
	switch {
	case err != nil:
		attempt.Error = unreachable
		if ctx.Err() == nil {
			slog.WarnContext(ctx, unreachable, "subscription", delivery.SubscriptionID,
				"delivery", delivery.ID, "error", withoutURL(err))
		}
	case status >= 300 && status < 400:
		attempt.Error = fmt.Sprintf("the subscriber answered %d, and redirects are not followed", status)
	case status < 200 || status > 299:
		attempt.Error = fmt.Sprintf("the subscriber answered %d", status)
	}
	return attempt
}

// lastWords is how long the rest of an answer is read.
const lastWords = 100 * time.Millisecond

func (c *client) send(
	ctx context.Context, delivery *Delivery, secret string, at time.Time,
) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	body := bytes.NewReader(delivery.Body)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, delivery.URL, body)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "cqrsync-example-webhooks")
	if delivery.TraceParent != "" {
		request.Header.Set("traceparent", delivery.TraceParent)
	}
	if err := sign(request.Header, secret, delivery.MessageID, at, delivery.Body); err != nil {
		return 0, err
	}
	response, err := c.Do(request)
	if err != nil {
		return 0, err
	}
	// The status is the answer. A little of what follows is read, so that the connection can be
	// used again; that it comes slowly, or not at all, changes nothing.
	enough := time.AfterFunc(lastWords, cancel)
	defer enough.Stop()
	_, _ = io.CopyN(io.Discard, response.Body, 4<<10)
	_ = response.Body.Close()
	return response.StatusCode, nil
}

// withoutURL is an error without the URL, which may hold a token.
func withoutURL(err error) error {
	var urlError *url.Error
	if errors.As(err, &urlError) {
		return urlError.Err
	}
	return err
}
