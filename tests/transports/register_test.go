package transports_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// registersDatabase: whoever notes a database finds out which one was noted before, also while messages are consumed.
func registersDatabase(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	messages := b.window(t, queue, topic, 3)
	first, second := b.sub(t, queue).(transport.Registrar), b.sub(t, queue).(transport.Registrar)
	register := func(r transport.Registrar, id, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		before, err := r.Register(ctx, id)
		require.NoError(t, err)
		require.Equal(t, want, before)
	}
	register(first, "a", "")
	register(first, "a", "a")
	register(second, "b", "a")
	register(first, "a", "b")
	register(b.sub(t, unique("queue")).(transport.Registrar), "c", "")
	register(second, "b", "a")

	batch := outgoing(topic, 2)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 2)
	require.Equal(t, batch[0].Message.UUID, receive(t, messages).UUID, "the note is no message of the queue")
	require.Equal(t, batch[1].Message.UUID, receive(t, messages).UUID)

	perTopic := b.sub(t, "").(transport.Registrar)
	register(perTopic, "a", "")
	register(perTopic, "b", "")
}

// Several processes note their databases at once, for a while: the other one is found, and no call waits for ever.
func registersAtOnce(t *testing.T, b broker) {
	queue := unique("queue")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var running sync.WaitGroup
	var mu sync.Mutex
	found := map[string]map[string]bool{"a": {}, "b": {}}
	for _, id := range []string{"a", "b", "a", "b"} {
		registrar := b.sub(t, queue).(transport.Registrar)
		running.Go(func() {
			for ctx.Err() == nil {
				before, err := registrar.Register(ctx, id)
				mu.Lock()
				if err == nil && before != "" {
					found[id][before] = true
				}
				done := found["a"]["b"] && found["b"]["a"]
				mu.Unlock()
				if done {
					return
				}
				select { // as processes do, which do so every half minute
				case <-time.After(time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	running.Wait()
	require.True(t, found["a"]["b"] && found["b"]["a"], "%v", found)
}
