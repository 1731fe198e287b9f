package main

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	_ "github.com/cqrsync/cqrsync/transport/nats"
)

// natsPlace is streams of their own.
type natsPlace struct {
	url      *url.URL
	name     string
	conn     *nats.Conn
	js       jetstream.JetStream
	consumer jetstream.Consumer
}

func openNATS(ctx context.Context, u *url.URL) (place, error) {
	p := &natsPlace{url: u, name: "bench_" + watermill.NewShortUUID()}
	server := *u
	server.RawQuery = ""
	conn, err := nats.Connect(server.String())
	if err != nil {
		return nil, errors.New("NATS cannot be reached") // the error may quote the URL
	}
	p.conn = conn
	p.js, err = jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(publishWindow))
	if err != nil {
		return nil, err
	}
	stream, err := p.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: p.name + "_hand", Subjects: []string{p.name + "_hand.>"},
		Retention: jetstream.InterestPolicy, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, err
	}
	p.consumer, err = stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "hand", AckPolicy: jetstream.AckAllPolicy, MaxAckPending: -1,
	})
	return p, err
}

func (p *natsPlace) address() string {
	u := *p.url
	query := u.Query()
	query.Set("stream", p.name)
	u.RawQuery = query.Encode()
	return u.String()
}

func (p *natsPlace) publish(ctx context.Context, bodies [][]byte) error {
	confirms := make([]jetstream.PubAckFuture, 0, len(bodies))
	await := func(f jetstream.PubAckFuture) error {
		select {
		case <-f.Ok():
			return nil
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i, body := range bodies {
		if i >= publishWindow {
			if err := await(confirms[i-publishWindow]); err != nil {
				return err
			}
		}
		m := nats.NewMsg(p.name + "_hand.order")
		m.Data = body
		m.Header.Set("cqrs_key", "1")
		m.Header.Set("cqrs_revision", "7")
		m.Header.Set("Nats-Msg-Id", watermill.NewUUID())
		confirm, err := p.js.PublishMsgAsync(m)
		if err != nil {
			return err
		}
		confirms = append(confirms, confirm)
	}
	for _, f := range confirms[max(0, len(confirms)-publishWindow):] {
		if err := await(f); err != nil {
			return err
		}
	}
	return nil
}

func (p *natsPlace) consume(ctx context.Context, apply func([][]byte) error) error {
	for ctx.Err() == nil {
		batch, err := p.consumer.Fetch(idealBatch, jetstream.FetchMaxWait(100*time.Millisecond))
		if err != nil {
			return err
		}
		var bodies [][]byte
		var last jetstream.Msg
		for m := range batch.Messages() {
			bodies, last = append(bodies, m.Data()), m
		}
		if len(bodies) == 0 {
			continue
		}
		if err := apply(bodies); err != nil {
			return err
		}
		if err := last.Ack(); err != nil {
			return err
		}
	}
	return nil
}

func (p *natsPlace) remove(ctx context.Context) error {
	defer p.conn.Close()
	var errs []error
	for _, suffix := range []string{"", "_inbox", "_notes", "_hand"} {
		err := p.js.DeleteStream(ctx, p.name+suffix)
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
