package main

// The stock binary speaks with every broker.
import (
	_ "github.com/cqrsync/cqrsync/transport/nats"
	_ "github.com/cqrsync/cqrsync/transport/redis"
)
