package browser

import (
	"net/url"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	transports "github.com/cqrsync/cqrsync/transport/open"
)

// A person who knows nothing but the page finds each failure in the sentence of the overview, and
// cures it by what stands beside it. What is staged and mended outside of the page is what the page
// says: start the relay, correct the password.
func TestAPersonFindsAndCuresEightFailures(t *testing.T) {
	s := start(t)
	b := open(t)
	stopRelay := s.relay(s.broker)
	stopReplica := s.replica()
	s.save(&Order{ID: 1, Status: "new"})
	s.arrives(1)
	b.do(chromedp.Navigate(s.page))
	well := func() {
		t.Helper()
		b.loads(s.page, "Everything is moving.")
	}
	well()
	var id int64 = 100
	write := func() int64 {
		id++
		s.save(&Order{ID: id, Status: "new"})
		return id
	}

	t.Log("1: the relay does not run")
	stopRelay()
	one := write()
	b.sees("No relay runs: 1 message waits, the oldest for")
	b.shoot("no-relay")
	b.sees("Start `relay run`. What waits is sent then.")
	stopRelay = s.relay(s.broker)
	s.arrives(one)
	well()

	t.Log("2: the broker cannot be reached")
	s.proxy.closed.Store(true)
	s.proxy.cut()
	one = write()
	b.sees("The broker cannot be reached for")
	b.says("the broker is down")
	s.proxy.closed.Store(false)
	s.arrives(one)
	well()

	t.Log("3: the broker refuses the password")
	stopRelay()
	wrong, err := url.Parse(s.broker)
	require.NoError(t, err)
	wrong.User = url.UserPassword("nobody", "hunter2")
	stopRelay = s.relay(wrong.String())
	one = write()
	b.sees("The broker refuses the relay for")
	b.says("a wrong password for the broker")
	require.NotContains(t, eval[string](b, "document.body.innerHTML"), "hunter2")
	stopRelay()
	s.relay(s.broker)
	s.arrives(one)
	well()

	t.Log("4: nobody takes a model")
	s.save(&Parcel{ID: 7})
	b.sees("parcel 7 waits for")
	b.sees("no queue is bound to the topic")
	b.shoot("stuck-key")
	subscriber, err := transports.Subscriber(s.broker, "parcels-"+s.queue, transports.Options{Logger: silently})
	require.NoError(t, err)
	parcels, err := subscriber.Subscribe(t.Context(), "parcel")
	require.NoError(t, err)
	b.do(chromedp.Navigate(s.page))
	arrived := make(chan struct{})
	go func() {
		(<-parcels).Ack()
		close(arrived)
	}()
	b.pressUnless(arrived, "Retry") // the relay tries again by itself, too
	b.pressUnless(arrived, "Retry now")
	<-arrived
	require.NoError(t, subscriber.Close())
	well()

	t.Log("5: a message is poison to the broker")
	one = write()
	s.arrives(one)
	key := "200"
	id = 200
	s.poison.Store(&key)
	s.save(&Order{ID: id, Status: "new"})
	b.sees("order 200 was given up")
	b.sees("the message is larger than max_message_size")
	s.poison.Store(nil)
	b.press("Retry")
	b.press("Retry all")
	s.arrives(200)
	well()

	t.Log("6: the queue of a replica is deleted")
	stopReplica()
	_, err = s.channel.QueueDelete(s.queue, false, false, false)
	require.NoError(t, err)
	b.sees("The queue of the replica " + s.queue + " was gone")
	b.says("a queue is dropped")
	stopReplica = s.replica()
	b.do(chromedp.Navigate(s.page))
	b.press("Verify now")
	b.press("Verify now")
	well()

	t.Log("7: a replica cannot apply what it gets")
	_, err = s.copies.ExecContext(t.Context(), "CREATE TRIGGER strict BEFORE INSERT ON order_copies "+
		"BEGIN SELECT RAISE(ABORT, 'no room for this order'); END")
	require.NoError(t, err)
	one = write()
	b.sees("The replica " + s.queue + " gave up order")
	b.sees("no room for this order")
	b.says("a message that cannot be applied (poison)")
	b.do(chromedp.Navigate(s.page + "key?q=order+" + strconv.FormatInt(one, 10)))
	b.sees("What it holds")
	b.sees(`"status": "new"`)
	b.accessible()
	b.do(chromedp.Navigate(s.page))
	_, err = s.copies.ExecContext(t.Context(), "DROP TRIGGER strict")
	require.NoError(t, err)
	b.press("Retry there")
	b.press("Retry there")
	s.arrives(one)
	well()

	t.Log("7, and what it gave up is not wanted any more")
	_, err = s.copies.ExecContext(t.Context(), "CREATE TRIGGER strict BEFORE INSERT ON order_copies "+
		"BEGIN SELECT RAISE(ABORT, 'no room for this order'); END")
	require.NoError(t, err)
	write()
	b.sees("no room for this order")
	_, err = s.copies.ExecContext(t.Context(), "DROP TRIGGER strict")
	require.NoError(t, err)
	b.do(chromedp.Navigate(s.page + "stuck"))
	b.press("Purge there")
	b.sees("deletes for good all its dead letters of order that it gave up until")
	b.press("Purge there")
	well()
	var left int
	require.NoError(t, s.copies.NewRaw("SELECT count(*) FROM replica_dead_letters").Scan(t.Context(), &left))
	require.Zero(t, left)
	b.loads(s.page+"audit", "purge dead letters of order until")
	well()

	t.Log("8: a replica is gone for good")
	stopReplica()
	b.sees("The replica " + s.queue + " is silent for")
	b.says("a replica is stopped")
	b.press("Forget it")
	b.press("Forget")
	b.loads(s.page, "Everything is moving. No replica has reported.")
	b.loads(s.page+"audit", "forget the replica "+s.queue)
	b.quiet()
}
