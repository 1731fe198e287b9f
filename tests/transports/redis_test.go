package transports_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/redis"
)

func TestRedis(t *testing.T) {
	r := newRedis(t)
	conform(t, broker{
		publisher: func(t testing.TB) transport.BatchPublisher {
			return r.publisher(t, "mandatory=false") // Watermill's suite publishes to nobody
		},
		subscriber: func(t testing.TB, queue string) transport.WindowSubscriber {
			return r.subscriber(t, queue, "")
		},
		required: func(t testing.TB) transport.BatchPublisher { return r.publisher(t, "") },
		inboxes: func(t testing.TB) transport.WindowSubscriber {
			config := r.config(t, "", "")
			config.Inbox = true
			sub, err := redis.NewSubscriber(config)
			require.NoError(t, err)
			return sub
		},
		features: tests.Features{
			ConsumerGroups:                      true,
			GuaranteedOrder:                     true,
			GuaranteedOrderWithSingleSubscriber: true,
			Persistent:                          true,
		},
	})
}

// redisPlace is keys of its own on the server that all tests share. They are deleted with the test.
type redisPlace struct {
	address, prefix string
	admin           *goredis.Client
}

func newRedis(t testing.TB) *redisPlace {
	t.Helper()
	address := dbtest.Address(t, dbtest.Redis)
	o, err := goredis.ParseURL(address)
	require.NoError(t, err)
	r := &redisPlace{address, "{" + unique("cqrs") + "}:", goredis.NewClient(o)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for keys := r.admin.Scan(ctx, 0, r.prefix+"*", 1000).Iterator(); keys.Next(ctx); {
			require.NoError(t, r.admin.Del(ctx, keys.Val()).Err())
		}
		require.NoError(t, r.admin.Close())
	})
	return r
}

// url is that of the place; options are URL parameters.
func (r *redisPlace) url(options string) string {
	separator := "?"
	if strings.Contains(r.address, "?") {
		separator = "&"
	}
	return r.address + separator + "prefix=" + r.prefix + "&" + options
}

func (r *redisPlace) config(t testing.TB, queue, options string) redis.Config {
	t.Helper()
	config, err := redis.NewConfig(r.url(options), queue)
	require.NoError(t, err)
	return config
}

func (r *redisPlace) publisher(t testing.TB, options string) *redis.Publisher {
	t.Helper()
	pub, err := redis.NewPublisher(r.config(t, "", options))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func (r *redisPlace) subscriber(t testing.TB, queue, options string) *redis.Subscriber {
	t.Helper()
	sub, err := redis.NewSubscriber(r.config(t, queue, options))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func TestConversationOverRedis(t *testing.T) {
	r := newRedis(t)
	converse(t, r.url(""), func(queue string) error {
		return r.admin.Del(t.Context(), r.prefix+"queue:"+queue).Err()
	})
}
