package webhooks_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestASubscriberThatHangsKeepsNobodyElseWaiting(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db) // its timeout of a minute outlasts the test
		for range 5 {
			api.subscribe(silent(t))
		}
		well := listen(t)
		api.subscribe(well.url)
		deliver(t, service)
		master := mastertest.Start(t, service)
		for id := range int64(10) {
			master.Save(id+1, order(id+1, "new"))
		}
		for range 10 {
			require.Equal(t, "created new 0", well.next(t))
		}
	})
}

func TestEveryReasonNotToAnswerLooksTheSame(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close() // nobody listens there
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(cut.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS() // with a certificate that nobody trusts
	t.Cleanup(secure.Close)
	port := cut.URL[strings.LastIndex(cut.URL, ":"):]
	for name, url := range map[string]string{
		"a closed port": gone.URL, "no answer": silent(t), "a connection cut": cut.URL, "no certificate": secure.URL,
		"no HTTP": strings.Replace(cut.URL, "http:", "https:", 1), "a forbidden address": "http://elsewhere.example" + port,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hasty := config().WithResolver(loopbackResolver(t))
			hasty.Timeout = 500 * time.Millisecond
			if name == "a forbidden address" {
				hasty.Targets.Allow = nil
			}
			service, api := serveWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), hasty)
			api.subscribe(url)
			deliver(t, service)
			mastertest.Start(t, service).Save(1, order(1, "new"))
			api.eventually("/deliveries", func(history []delivery) bool {
				return len(history) == 1 && history[0].State == "failed"
			})
			for _, attempt := range api.history("/deliveries")[0].Attempts {
				require.Zero(t, attempt.StatusCode)
				require.Equal(t, "the subscriber did not answer", attempt.Error)
			}
		})
	}
}

func TestASlowBodyIsASuccess(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(release) })
	service, api := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	api.subscribe(slow.URL)
	deliver(t, service)
	mastertest.Start(t, service).Save(1, order(1, "new"))
	api.eventually("/deliveries", func(history []delivery) bool {
		return len(history) == 1 && history[0].State == "delivered" && len(history[0].Attempts) == 1 &&
			history[0].Attempts[0].StatusCode == http.StatusOK
	})
}

func TestADeliveryThatTheEndOfTheServiceCutShortIsPostedByTheNext(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		arrived := make(chan struct{}, 10)
		first := true
		subscriber := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			hang := first
			first = false
			_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the caller is gone
			arrived <- struct{}{}
			if hang {
				<-r.Context().Done()
			}
		}))
		t.Cleanup(subscriber.Close)
		api.subscribe(subscriber.URL)
		mastertest.Start(t, service).Save(1, order(1, "new"))

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- service.Deliver(ctx) }()
		<-arrived
		stop()
		require.NoError(t, <-ended)
		history := api.history("/deliveries")
		require.Equal(t, "pending", history[0].State)
		require.Empty(t, history[0].Attempts, "it was not the subscriber's fault")

		deliver(t, service)
		api.eventually("/deliveries", func(history []delivery) bool { return history[0].State == "delivered" })
	})
}

func TestWhatWaitsForASubscriberThatIsGoneIsCancelled(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		service, api := serve(t, db)
		api.subscribe(listen(t).url)
		mastertest.Start(t, service).Save(1, order(1, "new"))
		// As if the order had changed while the subscription ended.
		_, err := db.NewDelete().Model(&webhooks.Subscription{ID: 1}).WherePK().Exec(t.Context())
		require.NoError(t, err)
		deliver(t, service)
		api.eventually("/deliveries", func(history []delivery) bool { return history[0].State == "cancelled" })
	})
}

func TestHistoryIsForgotten(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		clock := newClock()
		timed := config()
		timed.Now = clock.now
		service, api := serveWith(t, db, timed)
		subscriber := listen(t)
		api.subscribe(subscriber.url)
		api.subscribe(silent(t)) // what is pending is kept
		deliver(t, service)
		mastertest.Start(t, service).Save(1, order(1, "new"))
		api.eventually("/deliveries?state=delivered", func(history []delivery) bool { return len(history) == 1 })
		clock.advance(31 * 24 * time.Hour)
		api.eventually("/deliveries", func(history []delivery) bool {
			return len(history) == 1 && history[0].State == "pending"
		})
		left, err := db.NewSelect().Model((*webhooks.Attempt)(nil)).Count(t.Context())
		require.NoError(t, err)
		require.Zero(t, left)
	})
}

func TestDeliveriesAreSigned(t *testing.T) {
	t.Parallel()
	service, api := serve(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	subscriber := listen(t)
	subscriber.answers <- http.StatusInternalServerError
	secret := api.subscribe(subscriber.url)
	require.NotEqual(t, secret, api.subscribe(silent(t)))
	deliver(t, service)
	mastertest.Start(t, service).Save(1, order(1, "new"))

	first, again := <-subscriber.posts, <-subscriber.posts
	id, err := webhooks.Verify(first.header, first.body, time.Now(), "whsec_b3RoZXI=", secret)
	require.NoError(t, err)
	require.Equal(t, id, again.header.Get("Webhook-Id"), "every attempt has the same id")
	api.eventually("/deliveries?subscription=1", func(history []delivery) bool { return history[0].Message == id })

	refused := func(why string, header http.Header, body []byte, now time.Time, secrets ...string) {
		_, err := webhooks.Verify(header, body, now, secrets...)
		require.ErrorContains(t, err, why)
		require.NotContains(t, err.Error(), secret)
	}
	refused("another secret", first.header, first.body, time.Now(), "whsec_b3RoZXI=")
	refused("another secret", first.header, first.body, time.Now())
	refused("another body", first.header, append([]byte(" "), first.body...), time.Now(), secret)
	refused("not from the last", first.header, first.body, time.Now().Add(6*time.Minute), secret)
	refused("not from the last", first.header, first.body, time.Now().Add(-6*time.Minute), secret)
	refused("no id", http.Header{}, first.body, time.Now(), secret)
	refused("not whsec_", first.header, first.body, time.Now(), "whsec_?")
	other := first.header.Clone()
	other.Set("Webhook-Id", "msg_other")
	refused("another body", other, first.body, time.Now(), secret)
}

// The example of https://www.standardwebhooks.com, so that subscribers can use the libraries from
// there.
func TestSignaturesAreThoseOfStandardWebhooks(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	header.Set("Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
	header.Set("Webhook-Timestamp", "1614265330")
	header.Set("Webhook-Signature", "v2,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	_, err := webhooks.Verify(header, []byte(`{"test": 2432232314}`), time.Unix(1614265330, 0),
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
}

func TestNetworksAreAllowedByTheirPrefix(t *testing.T) {
	t.Parallel()
	narrow := config()
	narrow.Targets.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	_, api := serveWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), narrow)
	status, body := api.call(http.MethodPost, "/subscriptions", `{"url": "http://127.0.0.1:9/"}`)
	require.Equal(t, http.StatusBadRequest, status)
	require.JSONEq(t, `{"errors": ["url: 127.0.0.1 is not a public address"]}`, body)
	api.subscribe("http://127.0.0.2:9/")
}

// silent is a subscriber that never answers.
func silent(t *testing.T) (url string) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	return server.URL
}
