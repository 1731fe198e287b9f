package transports_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// A replica that is new, and asks nobody, has everything from the topic alone: also when the topic
// has forgotten what is not a key's newest, and of rows that were deleted that they were.
func TestKafkaCompactedTopic(t *testing.T) { compactedTopic(t, newKafka(t)) }

func compactedTopic(t *testing.T, k *kafkaPlace) {
	rawURL := k.url("compact=true&partitions=2")
	c := &conversation{T: t, url: rawURL, queue: unique("stats")}
	c.begin()
	publisher, err := open.Publisher(rawURL, open.Options{Logger: discard})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, publisher.Close()) })
	rel, err := relay.New(c.master, publisher, relay.Config{Logger: discard, PollInterval: 10 * time.Millisecond})
	require.NoError(t, err)
	c.runs(rel.Run)
	first := c.fromTopic(rawURL, unique("first"), c.copies)

	const rows, rounds = 60, 5
	c.write(1, rows)
	for round := range rounds {
		c.change(rows, func(ctx context.Context, tx bun.Tx, id int64) error {
			text := fmt.Sprintf("round %d", round)
			_, err := tx.NewUpdate().Model(&tale{ID: id, Text: text}).WherePK().Exec(ctx)
			return err
		})
		c.eventually("the first replica follows", func() bool { return countTold(c, c.copies, fmt.Sprintf("round %d", round)) == rows })
	}
	c.change(rows/3, func(ctx context.Context, tx bun.Tx, id int64) error {
		_, err := tx.NewDelete().Model(&tale{ID: id}).WherePK().Exec(ctx)
		return err
	})
	c.eventually("rows are deleted", func() bool { return c.count() == rows-rows/3 })
	first()
	k.compact(t, k.prefix+".tale", func() { c.touch(rows) })

	late := dbtest.Open(t, dbtest.SQLiteURL(t))
	_, err = late.NewCreateTable().Model((*told)(nil)).Exec(t.Context())
	require.NoError(t, err)
	c.fromTopic(rawURL, unique("late"), late)
	c.eventually("the new replica has it all", func() bool {
		return countTold(c, late, fmt.Sprintf("round %d", rounds-1)) == rows-rows/3-touched && countTold(c, late, "touched") == touched
	})
	n, err := late.NewSelect().Model((*told)(nil)).Count(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, rows-rows/3, n, "nothing that was deleted came back")
}

func countTold(c *conversation, db *bun.DB, text string) int64 {
	n, err := db.NewSelect().Model((*told)(nil)).Where("text = ?", text).Count(c.Context())
	require.NoError(c, err)
	return n
}

// change writes to rows from 1 on.
func (c *conversation) change(rows int64, change func(ctx context.Context, tx bun.Tx, id int64) error) {
	for id := int64(1); id <= rows; id++ {
		require.NoError(c, c.box.RunInTx(c.Context(), nil, func(ctx context.Context, tx bun.Tx) error { return change(ctx, tx, id) }))
	}
}

// touched is how many rows touch writes to: enough that each partition gets a message.
const touched = 8

// touch writes to the last rows.
func (c *conversation) touch(last int64) {
	for id := last - touched + 1; id <= last; id++ {
		require.NoError(c, c.box.RunInTx(c.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewUpdate().Model(&tale{ID: id, Text: "touched"}).WherePK().Exec(ctx)
			return err
		}))
	}
}

// fromTopic runs a replica that has no other source than the topic.
func (c *conversation) fromTopic(rawURL, queue string, db *bun.DB) (stop func()) {
	rep, err := replica.New(db, replica.Config{Queue: queue, Logger: discard})
	require.NoError(c, err)
	require.NoError(c, replica.Register[told](rep, "tale"))
	require.NoError(c, rep.Migrate(c.Context()))
	subscriber, err := open.Subscriber(rawURL, queue, open.Options{Logger: discard})
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, subscriber.Close()) })
	return c.runs(func(ctx context.Context) error { return rep.Run(ctx, subscriber) })
}

// compact has the brokers forget what is not a key's newest message, and returns when most of it is
// gone.
func (k *kafkaPlace) compact(t testing.TB, topic string, write func()) {
	t.Helper()
	before := k.records(t, topic)
	if k.fake != nil {
		k.fake.Compact()
	} else {
		var settings []kadm.AlterConfig
		for name, value := range map[string]string{
			"segment.ms": "50", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "100",
		} {
			settings = append(settings, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
		}
		answers, err := k.admin.AlterTopicConfigs(t.Context(), settings, topic)
		require.NoError(t, err)
		require.NoError(t, answers[0].Err)
	}
	require.Eventually(t, func() bool {
		write() // a segment ends when something comes behind it
		return k.records(t, topic) < before/2
	}, time.Minute, 200*time.Millisecond, "compaction does not take place")
}

// records counts what is in a topic.
func (k *kafkaPlace) records(t testing.TB, topic string) (n int) {
	t.Helper()
	config := k.config(t, "", "")
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	ends, err := k.admin.ListEndOffsets(t.Context(), topic)
	require.NoError(t, err)
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(left) > 0 {
		fetched := client.PollFetches(ctx)
		require.NoError(t, fetched.Err())
		fetched.EachRecord(func(r *kgo.Record) {
			n++
			if r.Offset >= left[r.Partition]-1 {
				delete(left, r.Partition)
			}
		})
	}
	return n
}
