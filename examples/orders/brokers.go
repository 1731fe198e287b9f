package main

// The demo runs over any of these; a service of one's own imports the package of its broker alone.
import (
	_ "github.com/cqrsync/cqrsync/transport/kafka"
	_ "github.com/cqrsync/cqrsync/transport/nats"
	_ "github.com/cqrsync/cqrsync/transport/redis"
)
