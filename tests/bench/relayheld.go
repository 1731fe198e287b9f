package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// benchRelayHeld drains a large backlog while another session holds a snapshot,
// so that no removed row goes away.
func benchRelayHeld(ctx context.Context, o options, report func(result)) (err error) {
	const rows = 500_000
	b, err := newBacklog(ctx, rows, rows, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop()) }()
	free, held := &heldDrain{backlog: b}, &heldDrain{backlog: b, hold: true}
	name := "500,000 rows, PostgreSQL to nowhere"
	r, err := group{
		bench: "relay-held", name: name, unit: "messages/s", of: "no snapshot held",
		cases: []benchCase{{"no snapshot held", free.measure}, {"a snapshot held", held.measure}},
	}.measure(ctx, o)
	if err != nil {
		return err
	}
	report(r)
	for _, d := range []*heldDrain{free, held} {
		tenths := group{
			bench: "relay-held", name: name + ", no snapshot held", unit: "messages/s",
			of: "first tenth",
		}
		if d.hold {
			tenths.name = name + ", a snapshot held"
		}
		tenths.cases = []benchCase{{name: "first tenth"}, {name: "last tenth"}}
		report(result{group: tenths, values: map[string][]float64{
			"first tenth": d.first, "last tenth": d.last,
		}})
	}
	return nil
}

type heldDrain struct {
	*backlog
	hold        bool
	first, last []float64 // rates, by round
}

func (d *heldDrain) measure(ctx context.Context) (rate float64, err error) {
	if err := d.clear(ctx); err != nil {
		return 0, err
	}
	group, err := d.start(ctx, func() message.Publisher { return newNowhere() }, 1)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, group.stop()) }()
	if d.hold {
		tx, err := d.DB().BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		if err != nil {
			return 0, err
		}
		defer func() { _ = tx.Rollback() }() // it only reads
		if _, err := tx.ExecContext(ctx, "SELECT 1 FROM full_outbox LIMIT 1"); err != nil {
			return 0, err
		}
	}
	if err := d.fill(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	group.wake()
	var marks [11]time.Duration // when each tenth was done
	for tenth := 1; tenth <= 10; {
		if done := group.settled(); done >= tenth*d.rows/10 {
			marks[tenth] = time.Since(start)
			tenth++
			continue
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
	tenth := float64(d.rows) / 10
	d.first = append(d.first, tenth/marks[1].Seconds())
	d.last = append(d.last, tenth/(marks[10]-marks[9]).Seconds())
	if marks[10] <= marks[9] {
		return 0, fmt.Errorf("the last tenth took no time: the bench looks too rarely")
	}
	return float64(d.rows) / marks[10].Seconds(), nil
}
