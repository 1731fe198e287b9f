package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// benchRelayEngine measures the engine without a broker: what it costs
// beyond fetching and deleting.
func benchRelayEngine(ctx context.Context, o options, report func(result)) (err error) {
	const rows = 100_000
	b, err := newBacklog(ctx, rows, 25_000, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop()) }()
	loop, err := newHandLoop(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loop.conn.Close(context.WithoutCancel(ctx))) }()
	drained := func(relays int, wait time.Duration) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			sink := newNowhere()
			sink.wait = wait
			took, err := b.drain(ctx, func() message.Publisher { return sink }, relays)
			if n := sink.outOfOrder(); n > 0 {
				err = errors.Join(err, fmt.Errorf("%d messages out of order", n))
			}
			return rows / took.Seconds(), err
		}
	}
	const hand = "hand-written loop"
	groups := []group{
		{name: "100,000 rows, 25,000 keys, PostgreSQL to nowhere", cases: []benchCase{
			{hand, loop.drain},
			{"cqrsync, 1 relay", drained(1, 0)},
			{"cqrsync, 2 relays", drained(2, 0)},
		}},
		{name: "the same to a broker that takes 10 ms", cases: []benchCase{
			{hand, loop.drain}, {"cqrsync, 1 relay", drained(1, 10*time.Millisecond)},
		}},
		{name: "the same, all in one lane", cases: []benchCase{
			{hand, loop.drain}, {"cqrsync, 1 relay", drained(1, 0)},
		}},
	}
	for _, g := range groups {
		if g.bench, g.unit, g.of = "relay-engine", "messages/s", hand; !strings.Contains(g.name, o.only) {
			continue
		}
		if strings.HasSuffix(g.name, "one lane") {
			if err := b.exec(ctx, "UPDATE full_outbox SET lane = 1"); err != nil {
				return err
			}
		}
		r, err := g.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
	}
	return nil
}

// handLoop is what one writes on pgx: lock a thousand rows, make Watermill
// messages of them, delete them, commit.
type handLoop struct {
	b    *backlog
	conn *pgx.Conn
}

func newHandLoop(ctx context.Context, b *backlog) (*handLoop, error) {
	var schema string
	if err := b.DB().NewRaw("SELECT current_schema()").Scan(ctx, &schema); err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(os.Getenv(dbtest.Variable(dbtest.Postgres)))
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["search_path"] = schema
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &handLoop{b, conn}, b.exec(ctx, `CREATE TABLE hand_outbox (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL, key text NOT NULL,
		payload json NOT NULL, headers json, created_at timestamptz NOT NULL DEFAULT now())
		WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`)
}

func (h *handLoop) drain(ctx context.Context) (float64, error) {
	err := h.b.exec(ctx, "TRUNCATE hand_outbox", `
		INSERT INTO hand_outbox (topic, key, payload, headers)
		SELECT model, key, data,
			json_build_object('cqrs_key', key, 'cqrs_revision', revision::text)
		FROM full_outbox ORDER BY n`)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for total := 0; total < h.b.rows; {
		n, err := h.step(ctx)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return float64(h.b.rows) / time.Since(start).Seconds(), nil
}

func (h *handLoop) step(ctx context.Context) (int, error) {
	tx, err := h.conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after the commit it does nothing
	rows, err := tx.Query(ctx, `SELECT id, topic, key, payload::text, headers::text
		FROM hand_outbox ORDER BY id LIMIT 1000
		FOR UPDATE SKIP LOCKED`)
	if err != nil {
		return 0, err
	}
	var ids []int64
	var topic, key, payload, headers string
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&id, &topic, &key, &payload, &headers}, func() error {
		ids = append(ids, id)
		m := message.NewMessage(watermill.NewUUID(), message.Payload(payload)) // what a publisher takes
		return json.Unmarshal([]byte(headers), &m.Metadata)
	})
	if err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM hand_outbox WHERE id = ANY($1)", ids); err != nil {
		return 0, err
	}
	return len(ids), tx.Commit(ctx)
}
