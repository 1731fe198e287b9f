package browser

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// Each page is shown without a complaint of the browser, keeps the policy, is small, and can be used
// by everybody.
func TestThePages(t *testing.T) {
	s := start(t)
	s.relay(s.broker)
	s.replica()
	b := open(t)
	s.save(&Order{ID: 17, Status: "new"})
	s.arrives(17)
	b.do(chromedp.Navigate(s.page))
	b.sees("Everything is moving. 1 replica")
	b.sees("Kept fresh.")
	b.accessible()
	poison := "18"
	s.poison.Store(&poison)
	s.save(&Order{ID: 18, Status: "new"})
	b.sees("order 18 was given up") // without loading anything anew
	b.accessible()
	for _, page := range []string{"replicas", "stuck", "key", "key?q=order+17", "key?q=nothing", "audit",
		"confirm?do=verify&queue=" + s.queue} {
		b.do(chromedp.Navigate(s.page + page))
		b.accessible()
	}
	b.do(chromedp.Navigate(s.page + "key?q=order+17"))
	b.sees("order 17 is at revision")
	b.sees("and the same on " + s.queue)
	require.Less(t, eval[float64](b, `performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
		.reduce((sum, e) => sum + e.transferSize, 0)`), 150_000.0)

	b.do(chromedp.Navigate(s.page + "stuck"))
	b.press("what it holds")
	b.sees("What it holds")
	b.accessible()
	b.press("Retry it")
	b.sees("goes back into the outbox")
	s.poison.Store(nil)
	b.press("Retry")
	b.sees("back in the outbox")
	s.arrives(18)
	b.do(chromedp.Navigate(s.page))
	b.sees("Everything is moving.")
	b.do(chromedp.Navigate(s.page + "audit"))
	b.sees("retry dead letter: SAVE of revision")
	b.quiet()
}

// Who has no JavaScript sees the same, and finds a key by the form.
func TestWithoutJavaScript(t *testing.T) {
	s := start(t)
	s.relay(s.broker)
	b := open(t)
	b.withoutScripts()
	b.loads(s.page, "Everything is moving. No replica has reported.")
	b.do(chromedp.Navigate(s.page+"key"), chromedp.SetValue("#q", "order 99"))
	b.press("Find")
	b.sees("order 99 is not known on the master. No replica takes the model.")
	b.quiet()
}
