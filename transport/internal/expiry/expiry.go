// Package expiry reads when a message expires, for the embedded transports: RabbitMQ does so
// itself, and this package allows what it allows.
package expiry

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// mostMilliseconds is RabbitMQ's limit, ten years.
const mostMilliseconds uint64 = 315_360_000_000

// Of returns for how long a message may wait in a queue; limited is false if that is for ever.
func Of(metadata message.Metadata) (ttl time.Duration, limited bool, err error) {
	text := metadata[transport.ExpirationKey]
	if text == "" {
		return 0, false, nil
	}
	milliseconds, err := strconv.ParseUint(text, 10, 64)
	if err != nil || milliseconds > mostMilliseconds {
		return 0, false, fmt.Errorf("metadata %s is %.40q: want whole milliseconds from 0 to %d",
			transport.ExpirationKey, text, mostMilliseconds)
	}
	return time.Duration(milliseconds) * time.Millisecond, true, nil //nolint:gosec // see the limit
}

// Travelling returns the metadata that goes with a message: without what is for the broker, or says
// how another broker delivered it. It never returns nil, or the receiver could not add to it.
func Travelling(metadata message.Metadata) message.Metadata {
	_, expires := metadata[transport.ExpirationKey]
	_, direct := metadata[transport.DirectKey]
	switch {
	case metadata == nil:
		return message.Metadata{}
	case !expires && !direct:
		return metadata
	}
	metadata = maps.Clone(metadata)
	delete(metadata, transport.ExpirationKey)
	delete(metadata, transport.DirectKey)
	return metadata
}
