package main

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/redis/go-redis/v9"

	_ "github.com/cqrsync/cqrsync/transport/redis"
)

// redisPlace is a prefix of keys.
type redisPlace struct {
	url    *url.URL
	prefix string
	client *redis.Client
}

func openRedis(ctx context.Context, u *url.URL) (place, error) {
	p := &redisPlace{url: u, prefix: "{bench_" + watermill.NewShortUUID() + "}:"}
	server := *u
	server.RawQuery = ""
	options, err := redis.ParseURL(server.String())
	if err != nil {
		return nil, errors.New("--broker is no URL of a Redis server")
	}
	p.client = redis.NewClient(options)
	return p, p.client.XGroupCreateMkStream(ctx, p.stream(), "hand", "0").Err()
}

func (p *redisPlace) stream() string { return p.prefix + "hand" }

func (p *redisPlace) address() string {
	u := *p.url
	query := u.Query()
	query.Set("prefix", p.prefix)
	u.RawQuery = query.Encode()
	return u.String()
}

func (p *redisPlace) publish(ctx context.Context, bodies [][]byte) error {
	for chunk := range slices.Chunk(bodies, publishWindow) {
		_, err := p.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, body := range chunk {
				pipe.XAdd(ctx, &redis.XAddArgs{Stream: p.stream(), Values: []any{
					"uuid", watermill.NewUUID(), "cqrs_key", "1", "cqrs_revision", "7", "body", body,
				}})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *redisPlace) consume(ctx context.Context, apply func([][]byte) error) error {
	for ctx.Err() == nil {
		read, err := p.client.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: "hand", Consumer: "bench", Streams: []string{p.stream(), ">"},
			Count: idealBatch, Block: 100 * time.Millisecond,
		}).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		var ids []string
		var bodies [][]byte
		for _, m := range read[0].Messages {
			body, _ := m.Values["body"].(string)
			ids, bodies = append(ids, m.ID), append(bodies, []byte(body))
		}
		if err := apply(bodies); err != nil {
			return err
		}
		_, err = p.client.Pipelined(context.WithoutCancel(ctx), func(pipe redis.Pipeliner) error {
			pipe.XAck(ctx, p.stream(), "hand", ids...)
			pipe.XDel(ctx, p.stream(), ids...)
			return nil
		})
		if err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	return nil
}

func (p *redisPlace) remove(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, p.client.Close()) }()
	keys := p.client.Scan(ctx, 0, p.prefix+"*", 1000).Iterator()
	for keys.Next(ctx) {
		if err := p.client.Unlink(ctx, keys.Val()).Err(); err != nil {
			return err
		}
	}
	return keys.Err()
}
