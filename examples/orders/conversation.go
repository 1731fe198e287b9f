package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// replicated is a service that keeps copies.
type replicated interface {
	Replicate(ctx context.Context, subscriber message.Subscriber) error
	Replicas() []*replica.Replica
	Running() <-chan struct{}
}

// addReplica adds a service that keeps copies. It reports to the master, asks for what was lost,
// and for all orders if it has none.
func (p *process) addReplica(queue string, service replicated) error {
	subscriber, err := open.Subscriber(p.broker, queue, open.Options{})
	if err != nil {
		return fmt.Errorf("--broker: %w", err)
	}
	p.closes = append(p.closes, subscriber.Close)
	publisher, err := open.Publisher(p.broker, open.Options{RequireQueue: true})
	if err != nil {
		return fmt.Errorf("--broker: %w", err)
	}
	p.closes = append(p.closes, publisher.Close)
	for _, rep := range service.Replicas() {
		config := converge.ReporterConfig{Backfill: converge.IfEmpty}
		reporter, err := converge.NewReporter(rep, publisher, config)
		if err != nil {
			return err
		}
		p.runs = append(p.runs, reporter.Run)
	}
	p.replicas = append(p.replicas, service.Running())
	p.runs = append(p.runs, func(ctx context.Context) error {
		return service.Replicate(ctx, subscriber)
	})
	return nil
}

// addAnswerer adds what answers the replicas of Orders, with its own serializers.
func (p *process) addAnswerer(service *orders.Service) error {
	publisher, err := open.Publisher(p.broker, open.Options{})
	if err != nil {
		return fmt.Errorf("--broker: %w", err)
	}
	p.closes = append(p.closes, publisher.Close)
	answerer, err := converge.NewAnswerer(service.Box(), converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return open.Inbox(p.broker, open.Options{}) },
		Queue:     p.openQueue,
	}, converge.AnswererConfig{})
	if err != nil {
		return err
	}
	p.answerer = answerer
	p.runs = append(p.runs, answerer.Run)
	return nil
}

// openQueue opens the queue of a replica, to look after it.
func (p *process) openQueue(name string) (converge.Queue, error) {
	subscriber, err := open.Subscriber(p.broker, name, open.Options{})
	if err != nil {
		return nil, err
	}
	queue, is := subscriber.(converge.Queue)
	if !is {
		return nil, errors.Join(errors.New("this kind of broker cannot be asked for queues"),
			subscriber.Close())
	}
	return queue, nil
}
