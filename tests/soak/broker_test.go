package soak

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// cutter is a way to a server on which connections can be cut at any byte, acks among them.
type cutter struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	open     map[net.Conn]bool
	cut      int
	pumps    sync.WaitGroup
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{listener: listener, target: target, open: map[net.Conn]bool{}}
	c.pumps.Go(c.accept)
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		c.cutAll()
		c.pumps.Wait()
	})
	return c
}

func (c *cutter) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		c.mu.Lock()
		c.open[near], c.open[far] = true, true
		c.mu.Unlock()
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			c.pumps.Go(func() {
				_, _ = io.Copy(pair[0], pair[1]) // ends when either side is cut
				_ = pair[0].Close()
				_ = pair[1].Close()
			})
		}
	}
}

func (c *cutter) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close()
	}
	if len(c.open) > 0 {
		c.cut++
	}
	clear(c.open)
}

// Acks are lost with the connection: what was committed comes again, and has no effect.
func TestConnectionsCutInTheMiddleOfAcks(t *testing.T) {
	const messages = 3000
	broker, err := url.Parse(dbtest.Address(t, dbtest.RabbitMQ))
	require.NoError(t, err)
	direct := broker.String()
	way := newCutter(t, broker.Host)
	broker.Host = way.listener.Addr().String()

	s := newSoak(t, dbtest.PostgresURL(t), direct)
	stop := s.runFrom(broker.String())
	tr := newTraffic(t, 1, 200)
	var cutting sync.WaitGroup
	cutting.Go(func() { // each time when it is well under way again
		for next := int64(200); next < messages-200; next += 400 {
			for s.rep.Stats().Applied < next {
				select {
				case <-t.Context().Done():
					return
				case <-time.After(time.Millisecond):
				}
			}
			way.cutAll()
		}
	})
	for range messages {
		s.publish(tr.write())
	}
	s.flush()
	s.requireEquals(tr)
	cutting.Wait()
	require.NoError(t, stop())
	require.Positive(t, way.cut)
	stats := s.rep.Stats()
	t.Logf("%d times cut: %+v", way.cut, stats)
	require.Zero(t, stats.DeadLettered)
	var applied int64
	require.NoError(t, s.db.NewRaw("SELECT sum(revision + 1) FROM replica_revisions").Scan(t.Context(), &applied))
	require.EqualValues(t, messages, applied, "every revision counted once")
}

// What can never be applied is in the queue where django-cqrs's tools look for it.
func TestDeadLettersReachTheirQueue(t *testing.T) {
	address := dbtest.Address(t, dbtest.RabbitMQ)
	name := uniqueName()
	broker := withExchange(address, name)
	logger := slog.New(slog.DiscardHandler)
	publisher, err := open.Publisher(broker, open.Options{Logger: logger})
	require.NoError(t, err)
	defer func() { require.NoError(t, publisher.Close()) }()
	subscriber, err := open.Subscriber(broker, name, open.Options{Logger: logger})
	require.NoError(t, err)
	defer removeQueue(t, address, name)
	defer func() { require.NoError(t, subscriber.Close()) }()
	initializer := subscriber.(message.SubscribeInitializer)
	require.NoError(t, initializer.SubscribeInitialize("order"), "makes the queue, and that of its dead letters")

	db, err := database.Open(dbtest.SQLiteURL(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	rep, err := replica.New(db, replica.Config{Queue: name, DeadLetters: publisher, Logger: logger})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	require.NoError(t, replica.HandleFunc(rep, "order", func(context.Context, replica.Event[Order]) error { return nil }))
	poison := newTraffic(t, 1, 1).bad()
	require.NoError(t, rep.Handler()(poison))

	conn, err := amqp091.Dial(address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	letter, there, err := channel.Get("dead_letter_"+name, true)
	require.NoError(t, err)
	require.True(t, there, "the broker has confirmed it")
	require.JSONEq(t, string(poison.Payload), string(letter.Body))
	require.Contains(t, letter.Headers["cqrsync_error"], `field "total"`)
	require.Equal(t, "864000000", letter.Expiration, "django-cqrs's ten days")
	require.Equal(t, "cqrs.dead_letter_"+name+".order", letter.RoutingKey)
}

func withExchange(broker, name string) string {
	separator := "?"
	if strings.Contains(broker, "?") {
		separator = "&"
	}
	return broker + separator + "exchange=" + name
}
