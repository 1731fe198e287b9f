package main

// The stock binary speaks with every broker.
import (
	_ "github.com/cqrsync/cqrsync/transport/kafka"
	_ "github.com/cqrsync/cqrsync/transport/nats"
	_ "github.com/cqrsync/cqrsync/transport/redis"
)

// What --broker may be, as the help of each command says it.
const (
	publishTo   = "where to publish: " + brokerURLs
	subscribeTo = "where to subscribe: " + brokerURLs
	brokerURLs  = "amqp://USER:PASSWORD@HOST:PORT/, kafka://…, nats://…, redis://… or sqlite://FILE"
)
