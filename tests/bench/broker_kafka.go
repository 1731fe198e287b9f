package main

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	_ "github.com/cqrsync/cqrsync/transport/kafka"
)

// kafkaPlace is a prefix of topics and groups.
type kafkaPlace struct {
	url    *url.URL
	prefix string
	admin  *kadm.Client
}

const handPartitions = 6 // as cqrsync makes them

func openKafka(ctx context.Context, u *url.URL) (place, error) {
	p := &kafkaPlace{url: u, prefix: "bench_" + watermill.NewShortUUID()}
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	p.admin = kadm.NewClient(client)
	created, err := p.admin.CreateTopic(ctx, handPartitions, -1, nil, p.topic())
	return p, errors.Join(err, created.Err)
}

func (p *kafkaPlace) client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(strings.Split(p.url.Host, ",")...))...)
}

func (p *kafkaPlace) topic() string { return p.prefix + ".hand" }

func (p *kafkaPlace) address() string {
	u := *p.url
	query := u.Query()
	query.Set("prefix", p.prefix)
	u.RawQuery = query.Encode()
	return u.String()
}

func (p *kafkaPlace) publish(ctx context.Context, bodies [][]byte) error {
	client, err := p.client(kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	var failed atomic.Pointer[error]
	for i, body := range bodies {
		client.Produce(ctx, &kgo.Record{
			Topic: p.topic(), Key: []byte{byte(i), byte(i >> 8)}, Value: body,
			Headers: []kgo.RecordHeader{
				{Key: "uuid", Value: []byte(watermill.NewUUID())},
				{Key: "cqrs_key", Value: []byte("1")}, {Key: "cqrs_revision", Value: []byte("7")},
			},
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (p *kafkaPlace) consume(ctx context.Context, apply func([][]byte) error) error {
	client, err := p.client(kgo.ConsumerGroup(p.prefix+".hand"), kgo.ConsumeTopics(p.topic()),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		fetched := client.PollRecords(ctx, idealBatch)
		if err := fetched.Err0(); err != nil {
			return ignoreEnd(ctx, err)
		}
		var bodies [][]byte
		for record := range fetched.RecordsAll() {
			bodies = append(bodies, record.Value)
		}
		if len(bodies) == 0 {
			continue
		}
		if err := apply(bodies); err != nil {
			return err
		}
		if err := client.CommitRecords(ctx, fetched.Records()...); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	return nil
}

func (p *kafkaPlace) remove(ctx context.Context) error {
	defer p.admin.Close()
	topics, err := p.admin.ListTopics(ctx)
	if err != nil {
		return err
	}
	groups, err := p.admin.ListGroups(ctx)
	if err != nil {
		return err
	}
	var ours []string
	for _, topic := range topics.Names() {
		if strings.HasPrefix(topic, p.prefix) {
			ours = append(ours, topic)
		}
	}
	_, err = p.admin.DeleteTopics(ctx, ours...)
	ours = nil
	for _, group := range groups.Groups() {
		if strings.HasPrefix(group, p.prefix) {
			ours = append(ours, group)
		}
	}
	if len(ours) > 0 {
		_, groupsErr := p.admin.DeleteGroups(ctx, ours...)
		err = errors.Join(err, groupsErr)
	}
	return err
}
