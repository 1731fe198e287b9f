package transports_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// What a process had in its hands when it died goes to another one before all else, and what one
// takes its time with does not.
func TestRedisMessagesOfADeadConsumerComeAgain(t *testing.T) {
	r := newRedis(t)
	queue, topic := unique("queue"), unique("topic")
	sub := r.subscriber(t, queue, "lease=1s")
	require.NoError(t, sub.KeepQueue(t.Context(), []string{topic}))
	batch := outgoing(topic, 6)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), batch), 6)
	// It plays the dead one: it takes, and says nothing any more.
	require.NoError(t, r.admin.XReadGroup(t.Context(), &goredis.XReadGroupArgs{
		Group: "cqrsync", Consumer: "dead", Count: 3, Streams: []string{r.prefix + "messages:" + queue, ">"},
	}).Err())
	require.NoError(t, r.admin.ZAdd(t.Context(), r.prefix+"consumers:"+queue,
		goredis.Z{Score: float64(time.Now().UnixMilli()), Member: "dead"}).Err())
	inQueue(t, sub, 3)
	require.Eventually(t, func() bool { // its lease is over for whoever looks
		cutoff := r.admin.ZScore(t.Context(), r.prefix+"consumers:"+queue, "dead").Val()
		return time.Now().UnixMilli() > int64(cutoff)+1100
	}, patience, 20*time.Millisecond)

	messages, err := sub.SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	var held []*message.Message
	for range 6 {
		held = append(held, receive(t, messages))
	}
	require.Equal(t, ids(batch), uuids(held), "the dead one's first")
	other, err := r.subscriber(t, queue, "lease=1s").SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	select {
	case msg := <-other:
		require.Fail(t, "what is in work went to another one", "%v", msg.UUID)
	case <-time.After(3 * time.Second):
	}
	for _, msg := range held {
		msg.Ack()
	}
	require.Eventually(t, func() bool {
		return r.admin.XLen(t.Context(), r.prefix+"messages:"+queue).Val() == 0
	}, patience, 5*time.Millisecond, "what is acknowledged is gone, and nothing else was trimmed")
}

// A consumer that was taken for dead, and goes on, takes nothing from who has its messages now.
func TestRedisConsumerThatWasTakenForDead(t *testing.T) {
	r := newRedis(t)
	queue, topic := unique("queue"), unique("topic")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages, err := r.subscriber(t, queue, "").SubscribeWindow(ctx, topic, 2)
	require.NoError(t, err)
	batch := outgoing(topic, 2)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), batch), 2)
	acks, returns := receive(t, messages), receive(t, messages)
	consumers := r.prefix + "consumers:" + queue
	names := r.admin.ZRange(t.Context(), consumers, 0, -1).Val()
	require.Len(t, names, 1)
	// as if it had been silent for long
	require.NoError(t, r.admin.ZAdd(t.Context(), consumers, goredis.Z{Score: 1, Member: names[0]}).Err())
	other, err := r.subscriber(t, queue, "").SubscribeWindow(t.Context(), topic, 2)
	require.NoError(t, err)
	taken := []*message.Message{receive(t, other), receive(t, other)}
	require.Equal(t, ids(batch), uuids(taken))
	acks.Ack()
	returns.Nack()
	cancel()
	closed(t, messages)
	silent(t, other)
	taken[0].Ack()
	taken[1].Ack()
	require.Eventually(t, func() bool {
		return r.admin.XLen(t.Context(), r.prefix+"messages:"+queue).Val() == 0
	}, patience, 5*time.Millisecond)
	for _, kind := range []string{"returned:", "expiring:"} {
		require.Zero(t, r.admin.ZCard(t.Context(), r.prefix+kind+queue).Val())
	}
}

// Dead letters keep their places however often they are looked at, and go where they are sent.
func TestRedisDeadLetters(t *testing.T) {
	r := newRedis(t)
	queue := unique("queue")
	sub, pub := r.subscriber(t, queue, ""), r.publisher(t, "")
	dead := sub.DeadLetterQueue()
	err := sub.EachDeadLetter(t.Context(), dead, func(transport.DeadLetter) (bool, error) { return true, nil })
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	_, err = sub.PurgeDeadLetters(t.Context(), dead)
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	bury := func(body string) {
		require.NoError(t, pub.Publish(transport.DirectTopic(dead, "order"), message.NewMessage("x", []byte(body))))
	}
	for i := range 5 {
		bury(fmt.Sprint(i))
	}
	for _, limit := range []int{3, 100, 1, 5} {
		require.Equal(t, []string{"0", "1", "2", "3", "4"}[:min(limit, 5)], look(t, sub, dead, limit))
	}
	visited := 0
	require.NoError(t, sub.EachDeadLetter(t.Context(), dead, func(l transport.DeadLetter) (bool, error) {
		visited++
		switch string(l.Message.Payload) {
		case "1":
			require.NoError(t, l.Remove())
		case "2":
			require.ErrorIs(t, l.SendAgain("customer", l.Message), transport.ErrUnroutable)
		case "3":
			require.NoError(t, l.SendAgain(transport.DirectTopic(queue, "order"), l.Message))
			again := receive(t, messages)
			require.Equal(t, "true", again.Metadata[transport.DirectKey])
			again.Ack()
			bury("3 failed again")
		}
		return true, nil
	}))
	require.Equal(t, 5, visited)
	require.Equal(t, []string{"0", "2", "4", "3 failed again"}, look(t, sub, dead, 100))
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, sub.EachDeadLetter(ctx, dead, func(transport.DeadLetter) (bool, error) {
		cancel()
		return true, nil
	}), context.Canceled)
	purged, err := sub.PurgeDeadLetters(t.Context(), dead)
	require.NoError(t, err)
	require.Equal(t, 4, purged)
	require.Empty(t, look(t, sub, dead, 100))
}

// Whatever a name has in it, it is that name.
func TestRedisNames(t *testing.T) {
	r := newRedis(t)
	topics := []string{"a b", "a*", "a..b", ".", "ü", "a:b", "\x00", "{x}", "order"}
	queue := "kü chen:*{}\r\n"
	s, err := r.subscriber(t, queue, "").SubscribeBatch(t.Context(), topics, 100)
	require.NoError(t, err)
	metadata := message.Metadata{"": "empty", "uuid": "mine", "payload": "\x00\xff", "m:": "m"}
	var batch []transport.Outgoing
	for _, topic := range topics {
		batch = append(batch, outgoing(topic, 1)...)
		batch = append(batch, outgoing(transport.DirectTopic(queue, topic), 1)...)
	}
	for i := range batch {
		batch[i].Message.Metadata = metadata
	}
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), batch), len(batch))
	for i := range batch {
		msg := receive(t, s.Messages)
		require.Equal(t, batch[i].Message.UUID, msg.UUID)
		require.Equal(t, i%2 == 1, msg.Metadata[transport.DirectKey] != "")
		delete(msg.Metadata, transport.DirectKey)
		require.Equal(t, metadata, msg.Metadata)
		s.Settle([]*message.Message{msg}, nil)
	}
}
