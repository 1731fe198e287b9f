//go:build unix

package django

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// graveyard is a Go replica that leaves its dead letters on the broker, as Django does.
const graveyard = "graveyard"

// last is a publisher whose worker has tried it as often as it may.
func last(id int, name string) string {
	return fmt.Sprintf(`{"signal_type":"SAVE","cqrs_id":"publisher","instance_data":{"id":%d,"name":%q,`+
		`"cqrs_revision":0,"cqrs_updated":"2026-11-30 12:00:00+00:00"},"previous_data":null,"instance_pk":%[1]d,`+
		`"correlation_id":null,"retries":30,"expires":null,"meta":{}}`, id, name)
}

func (d deployment) send(queue string, bodies ...string) {
	d.Helper()
	require.NoError(d, d.channel(func(channel *amqp091.Channel) error {
		for _, body := range bodies {
			err := channel.PublishWithContext(d.Context(), d.exchange, "cqrs."+queue+".publisher", true, false,
				amqp091.Publishing{ContentType: "text/plain", DeliveryMode: amqp091.Persistent, Body: []byte(body)})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// awaitLetters returns when so many are in the queue of dead letters.
func (d deployment) awaitLetters(queue string, want int) {
	d.Helper()
	found := -1
	require.Eventually(d, func() bool {
		err := d.channel(func(channel *amqp091.Channel) error {
			q, err := channel.QueueDeclarePassive("dead_letter_"+queue, true, false, false, false, nil)
			found = q.Messages
			return err
		})
		return err == nil && found == want
	}, time.Minute, 50*time.Millisecond, "letters of %s", queue)
}

// names are those of the publishers from 9000 on that a database has.
func (d deployment) names(name string) (names []string) {
	d.Helper()
	db := dbtest.Open(d, d.databases[name])
	require.NoError(d, db.NewSelect().Table("search_publisher").Column("name").Where("id >= 9000").Order("id").
		Scan(d.Context(), &names))
	return names
}

// goMindsDjangosLetters reads, retries and purges with our command what a Django worker gave up.
func goMindsDjangosLetters(t *testing.T, d deployment, bin string) {
	queue := d.queue(rabbit)
	db := dbtest.Open(t, d.databases[rabbit])
	alter := func(change string) {
		_, err := db.DB.ExecContext(t.Context(), "ALTER TABLE search_publisher "+change)
		require.NoError(t, err)
	}
	alter("ADD CONSTRAINT alive CHECK (id < 9000)")
	d.send(queue, last(9001, "one"), last(9002, "two"))
	d.awaitLetters(queue, 2)
	letters := "relay dead-letters %s --side replica --broker '" + d.brokerURL() + "' --queue " + queue
	run := func(line string) string {
		t.Helper()
		code, said := d.pipe(t, bin, line)
		require.Zero(t, code, "%s: %s", line, said)
		return said
	}
	dump := run(fmt.Sprintf(letters, "dump"))
	require.Equal(t, dump, run("django-rabbit cqrs_dead_letters dump"))
	require.Equal(t, 2, strings.Count(dump, "\n"))
	require.Contains(t, run(fmt.Sprintf(letters, "list")), "9001")

	alter("DROP CONSTRAINT alive")
	run(fmt.Sprintf(letters, "retry --key 9001"))
	require.Eventually(t, func() bool { return len(d.names(rabbit)) == 1 }, time.Minute, 50*time.Millisecond)
	require.Equal(t, []string{"one"}, d.names(rabbit))
	d.awaitLetters(queue, 1)
	run(fmt.Sprintf(letters, "purge --all"))
	d.awaitLetters(queue, 0)
	_, err := db.ExecContext(t.Context(), "DELETE FROM search_publisher WHERE id >= 9000")
	require.NoError(t, err)
}

// djangoMindsGosLetters reads, retries and purges with Django's command what a Go replica gave up.
func djangoMindsGosLetters(t *testing.T, d deployment, bin string) {
	queue := d.queue(graveyard)
	quiet := open.Options{Logger: slog.New(slog.DiscardHandler)}
	publisher, err := open.Publisher(d.brokerURL(), quiet)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, publisher.Close()) })
	subscriber, err := open.Subscriber(d.brokerURL(), queue, quiet)
	require.NoError(t, err)
	rep, err := replica.New(dbtest.Open(t, dbtest.SQLiteURL(t)),
		replica.Config{Queue: queue, DeadLetters: publisher, Logger: quiet.Logger})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	var mended atomic.Bool
	applied := make(chan string, 10)
	require.NoError(t, replica.Handle(rep, "publisher",
		func(_ context.Context, _ bun.Tx, e replica.Event[struct{ Name string }]) error {
			if !mended.Load() {
				return replica.Permanent(errors.New("not yet"))
			}
			applied <- e.Data.Name
			return nil
		}))
	d.background(func(ctx context.Context) error { return rep.Run(ctx, subscriber) }, subscriber.Close)
	d.awaitConsumer(graveyard, 1)

	bodies := []string{last(9001, "one"), last(9002, "two")}
	d.send(queue, bodies...)
	d.awaitLetters(queue, 2)
	run := func(command string) string {
		t.Helper()
		code, said := d.pipe(t, bin, "django-graveyard cqrs_dead_letters "+command)
		require.Zero(t, code, said)
		return said
	}
	for i, line := range strings.Split(strings.TrimSpace(run("dump")), "\n") {
		var want, got map[string]any
		require.NoError(t, json.Unmarshal([]byte(bodies[i]), &want))
		require.NoError(t, json.Unmarshal([]byte(line), &got), line)
		want["retries"] = float64(0) // the Go replica's own
		require.Equal(t, want, got)
	}
	mended.Store(true)
	require.Contains(t, run("retry"), "Total dead letters: 2")
	for _, name := range []string{"one", "two"} {
		select {
		case got := <-applied:
			require.Equal(t, name, got)
		case <-time.After(time.Minute):
			require.FailNow(t, "it was not sent again", name)
		}
	}
	d.awaitLetters(queue, 0)
	mended.Store(false)
	d.send(queue, last(9003, "three"))
	d.awaitLetters(queue, 1)
	require.Contains(t, run("purge"), "Purged")
	d.awaitLetters(queue, 0)
}
