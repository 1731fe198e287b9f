// Package inbox holds the limits of an inbox, on every transport: the queue of a master, to which
// replicas send what is worth nothing when it is old. Nobody waits there for a master that is gone.
package inbox

import "time"

const (
	// TTL is how long a message waits in an inbox at most.
	TTL = 10 * time.Minute
	// Most is how many messages wait in one at most. The oldest make room for further ones.
	Most = 10_000
	// Expires is how long an inbox stays that has no consumer.
	Expires = 24 * time.Hour
)
