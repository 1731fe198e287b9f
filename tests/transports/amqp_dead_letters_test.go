package transports_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// letterQueue is a queue with n letters, as somebody else made it.
func (r *rabbit) letterQueue(t testing.TB, arguments amqp091.Table, n int) (queue string) {
	t.Helper()
	queue = unique("letters")
	channel := r.channel(t)
	defer func() { require.NoError(t, channel.Close()) }()
	_, err := channel.QueueDeclare(queue, true, false, false, false, arguments)
	require.NoError(t, err)
	r.queues[queue] = true
	require.NoError(t, channel.Confirm(false))
	for i := range n {
		confirm, err := channel.PublishWithDeferredConfirm("", queue, true, false, amqp091.Publishing{
			Body: fmt.Append(nil, i), DeliveryMode: amqp091.Persistent, Expiration: "864000000",
		})
		require.NoError(t, err)
		require.True(t, confirm.Wait())
	}
	return queue
}

// look lists at most so many letters of a queue.
func look(t testing.TB, box transport.DeadLetterBox, queue string, limit int) (bodies []string) {
	t.Helper()
	require.NoError(t, box.EachDeadLetter(t.Context(), queue, func(l transport.DeadLetter) (bool, error) {
		bodies = append(bodies, string(l.Message.Payload))
		return len(bodies) < limit, nil
	}))
	return bodies
}

// However often letters are looked at, all of them or the first ones, they stay and keep their
// order: also in a quorum queue, which gives back behind each other what it gives back, and drops
// what it gave back too often.
func TestLettersStayInOrderHoweverOftenTheyAreLookedAt(t *testing.T) {
	for name, arguments := range map[string]amqp091.Table{
		"classic":                nil,
		"quorum":                 {"x-queue-type": "quorum"},
		"quorum, few deliveries": {"x-queue-type": "quorum", "x-delivery-limit": int64(5)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRabbit(t)
			queue := r.letterQueue(t, arguments, 7)
			box := r.subscriber(t, unique("queue"))
			want := []string{"0", "1", "2", "3", "4", "5", "6"}
			for round := range 30 {
				limit := []int{3, 7, 100, 1, 5}[round%5]
				require.Equal(t, want[:min(limit, 7)], look(t, box, queue, limit), "round %d", round)
				r.waits(t, queue, 7)
			}
			for i := range 7 {
				letter := r.next(t, queue)
				require.Equal(t, want[i], string(letter.Body))
				require.Equal(t, "864000000", letter.Expiration)
			}
		})
	}
}

func TestLettersAreRemovedAndSentAgain(t *testing.T) {
	for name, arguments := range map[string]amqp091.Table{"classic": nil, "quorum": {"x-queue-type": "quorum"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRabbit(t)
			live := r.bound(t, "order")
			queue := r.letterQueue(t, arguments, 7)
			box := r.subscriber(t, live)
			look(t, box, queue, 100)
			r.waits(t, queue, 7)
			var fates []error
			require.NoError(t, box.EachDeadLetter(t.Context(), queue, func(l transport.DeadLetter) (bool, error) {
				again := message.NewMessage("", append([]byte("again "), l.Message.Payload...))
				again.Metadata["cqrs_key"], again.Metadata["x-delivery-count"] = "7", "9"
				switch string(l.Message.Payload) {
				case "1":
					fates = append(fates, l.Remove())
				case "2":
					fates = append(fates, l.SendAgain("customer", again))
				case "4":
					again.Metadata["long"] = string(make([]byte, 1<<20))
					again.Metadata[string(make([]byte, 300))] = ""
					fates = append(fates, l.SendAgain("order", again))
				case "3", "6":
					fates = append(fates, l.SendAgain(transport.DirectTopic(live, "order"), again))
				}
				return true, nil
			}))
			require.Len(t, fates, 5)
			require.NoError(t, errors.Join(fates[0], fates[2], fates[4]))
			require.ErrorIs(t, fates[1], transport.ErrUnroutable)
			require.ErrorContains(t, fates[3], "255")
			r.waits(t, queue, 4)
			require.Equal(t, []string{"0", "2", "4", "5"}, look(t, box, queue, 100))
			for _, want := range []string{"again 3", "again 6"} {
				got := r.next(t, live)
				require.Equal(t, want, string(got.Body))
				require.Equal(t, amqp091.Table{"cqrs_key": "7"}, got.Headers)
				require.Equal(t, "text/plain", got.ContentType)
				require.Equal(t, amqp091.Persistent, got.DeliveryMode)
				require.Empty(t, got.Expiration, "it is no dead letter any more")
				require.Equal(t, "cqrs."+live+".order", got.RoutingKey)
			}
			r.waits(t, queue, 4)
			purged, err := box.PurgeDeadLetters(t.Context(), queue)
			require.NoError(t, err)
			require.Equal(t, 4, purged)
			require.Empty(t, look(t, box, queue, 100))
		})
	}
}

// What comes while letters are visited, sent again ones that fail again above all, waits for the
// next time.
func TestLettersThatComeBackAreNotVisitedAgain(t *testing.T) {
	r := newRabbit(t)
	queue := r.letterQueue(t, nil, 3)
	channel := r.channel(t)
	visited := 0
	require.NoError(t, r.subscriber(t, unique("queue")).EachDeadLetter(t.Context(), queue, func(l transport.DeadLetter) (bool, error) {
		visited++
		require.NoError(t, channel.Publish("", queue, true, false, amqp091.Publishing{Body: []byte("new")}))
		return true, l.Remove()
	}))
	require.Equal(t, 3, visited)
	r.waits(t, queue, 3)
}

// Whatever ends a visit, the letters that were not dealt with are there afterwards.
func TestLettersStayWhenAVisitFails(t *testing.T) {
	r := newRabbit(t)
	live := r.bound(t, "order")
	queue := r.letterQueue(t, nil, 5)
	box := r.subscriber(t, live)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		fail func(l transport.DeadLetter) error
		want error
	}{
		"the visitor": {t.Context(), func(transport.DeadLetter) error { return errTest }, errTest},
		"interrupted": {ctx, func(transport.DeadLetter) error { cancel(); return nil }, context.Canceled},
		"no exchange": {t.Context(), func(l transport.DeadLetter) error {
			channel := r.channel(t)
			require.NoError(t, channel.ExchangeDelete(r.exchange, false, false))
			return l.SendAgain("order", message.NewMessage("", nil))
		}, transport.ErrDestination},
	} {
		t.Run(name, func(t *testing.T) {
			visited := 0
			require.ErrorIs(t, box.EachDeadLetter(test.ctx, queue, func(l transport.DeadLetter) (bool, error) {
				visited++
				if visited == 3 {
					return true, test.fail(l)
				}
				return true, nil
			}), test.want)
			require.Equal(t, 3, visited)
			r.waits(t, queue, 5)
			require.Equal(t, []string{"0", "1", "2", "3", "4"}, look(t, box, queue, 100))
			r.waits(t, queue, 5)
		})
	}
}

// letterPermissions: to look takes the permission to read, to send again that to write to the
// exchange.
func letterPermissions(t *testing.T, node ownRabbit, all *amqp.Subscriber) {
	conn, err := amqp091.Dial(node.URL())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	dead := all.DeadLetterQueue()
	for _, body := range []string{"0", "1"} {
		require.NoError(t, channel.Publish("", dead, true, false, amqp091.Publishing{Body: []byte(body)}))
	}
	two := func() {
		require.Eventually(t, func() bool {
			state, err := channel.QueueDeclarePassive(dead, true, false, false, false, nil)
			require.NoError(t, err)
			return state.Messages == 2
		}, patience, 5*time.Millisecond)
	}
	node.user(t, "looks", "^$", "^$", "^dead_letter_stats$")
	node.user(t, "retries", "^$", "^cqrs$", "^dead_letter_stats$")
	again := func(l transport.DeadLetter) (bool, error) {
		return true, l.SendAgain(transport.DirectTopic("stats", "order"), message.NewMessage("", l.Message.Payload))
	}
	looks := subscribe(t, node.with(t, "looks", ""))
	two()
	require.Equal(t, []string{"0", "1"}, look(t, looks, dead, 100))
	two()
	require.ErrorIs(t, looks.EachDeadLetter(t.Context(), dead, again), transport.ErrDestination)
	two()
	require.NoError(t, subscribe(t, node.with(t, "retries", "")).EachDeadLetter(t.Context(), dead, again))
	require.Empty(t, look(t, looks, dead, 100))

	for name, user := range map[string]string{"nobody": "writes", "a publisher": "relay"} {
		box := subscribe(t, node.with(t, user, ""))
		require.NoError(t, channel.Publish("", dead, true, false, amqp091.Publishing{}))
		require.ErrorContains(t, box.EachDeadLetter(t.Context(), dead, again), "the user needs the permissions", name)
		_, err = box.PurgeDeadLetters(t.Context(), dead)
		require.ErrorContains(t, err, "the user needs the permissions", name)
	}
}

var errTest = errors.New("a test's")

func TestLettersOfAQueueThatIsNotThere(t *testing.T) {
	r := newRabbit(t)
	queue := unique("queue")
	box := r.subscriber(t, queue)
	require.Equal(t, "dead_letter_"+queue, box.DeadLetterQueue())
	err := box.EachDeadLetter(t.Context(), box.DeadLetterQueue(), func(transport.DeadLetter) (bool, error) { return true, nil })
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	require.ErrorContains(t, err, "dead_letter_"+queue)
	_, err = box.PurgeDeadLetters(t.Context(), box.DeadLetterQueue())
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	require.NoError(t, box.SubscribeInitialize("order"), "the connection goes on")
	require.Empty(t, look(t, box, box.DeadLetterQueue(), 100))
	require.NoError(t, box.Close())
	_, err = box.PurgeDeadLetters(t.Context(), box.DeadLetterQueue())
	require.ErrorContains(t, err, "closed")

	config, err := amqp.NewConfig("amqp://127.0.0.1:1/", queue)
	require.NoError(t, err)
	away, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	defer func() { require.NoError(t, away.Close()) }()
	_, err = away.PurgeDeadLetters(t.Context(), queue)
	require.ErrorIs(t, err, transport.ErrUnavailable)
}
