package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

var errAllThere = errors.New("everything has arrived")

// consumeOrder notes what arrives until all of it has, and a second more for what arrives twice.
func consumeOrder(
	ctx context.Context, address string, at publishPlace, written <-chan int,
) (seen *orderLog, err error) {
	seen = &orderLog{got: map[string]map[int64]bool{}, newest: map[string]int64{}}
	conn, err := amqp091.Dial(address)
	if err != nil {
		return seen, errors.New("RabbitMQ cannot be reached")
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	channel, err := conn.Channel()
	if err != nil {
		return seen, err
	}
	deliveries, err := channel.ConsumeWithContext(ctx, at.exchange, "", true, true, false, false, nil)
	if err != nil {
		return seen, err
	}
	var late <-chan time.Time
	for {
		select {
		case seen.written = <-written:
		case d := <-deliveries:
			seen.note(d)
		case <-late:
			return seen, errAllThere
		case <-ctx.Done():
			return seen, fmt.Errorf("%d messages are missing: %w", seen.missing(), ctx.Err())
		}
		if late == nil && seen.written > 0 && seen.missing() == 0 {
			late = time.After(3 * orderLease)
		}
	}
}

type orderLog struct {
	written, inversions, duplicates int
	needed                          int // of those that must arrive, so many have
	got                             map[string]map[int64]bool
	newest                          map[string]int64
}

// note counts a message that arrives for the first time after a newer
// one of its key as an inversion.
func (l *orderLog) note(d amqp091.Delivery) {
	key := fmt.Sprint(d.Headers["cqrs_key"])
	revision, err := strconv.ParseInt(fmt.Sprint(d.Headers["cqrs_revision"]), 10, 64)
	if err != nil {
		return
	}
	if l.got[key] == nil {
		l.got[key] = map[int64]bool{}
		l.newest[key] = -1
	}
	switch {
	case l.got[key][revision]:
		l.duplicates++
		return
	case revision < l.newest[key]:
		l.inversions++
	}
	l.got[key][revision] = true
	if kept(key) || revision == orderRevisions-1 {
		l.needed++
	}
	l.newest[key] = max(l.newest[key], revision)
}

// missing is how many have not arrived of those that must.
func (l *orderLog) missing() int {
	must := 0
	for key := range orderKeys {
		if kept(strconv.Itoa(key)) {
			must += orderRevisions
		} else {
			must++
		}
	}
	return must - l.needed
}

func (l *orderLog) counts() map[string]float64 {
	return map[string]float64{
		"written": float64(l.written), "inversions": float64(l.inversions), "lost": float64(l.missing()),
		"duplicates": float64(l.duplicates),
	}
}
