package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
)

const (
	// pullExpires is how long the server remembers that it was asked for messages.
	pullExpires = 20 * time.Second
	// pullGrace is how much later its word of that may come.
	pullGrace = 10 * time.Second
	// heartbeat is how often the server says that it still knows what it was asked for. In a
	// cluster it forgets that with the server that leads the queue.
	heartbeat = 2 * time.Second
	// silent is after how long without a word it is taken to have forgotten.
	silent = 3 * heartbeat
)

var errReconnected = fmt.Errorf("%w: the connection was lost", transport.ErrUnavailable)

var errLate = fmt.Errorf("%w: the server no longer answers for the queue", transport.ErrUnavailable)

// pulls are requests for messages that the server has not filled yet, oldest first, which is how
// the server fills them.
type pulls []pull

type pull struct {
	left    int
	expires time.Time
}

// open is how many messages may come.
func (p pulls) open() (n int) {
	for _, one := range p {
		n += one.left
	}
	return n
}

// filled counts a message that has come.
func (p pulls) filled() pulls {
	if len(p) == 0 {
		return p
	}
	p[0].left--
	if p[0].left <= 0 {
		return p[1:]
	}
	return p
}

// late says that the oldest request should have ended, or that the server, heard last at a time, no
// longer knows of any.
func (p pulls) late(heard time.Time) bool {
	return len(p) > 0 && (time.Now().After(p[0].expires.Add(pullGrace)) || time.Since(heard) > silent)
}

// ended takes the server's word that a request is over. broken is why no other one should be made
// before the queue was looked after.
func (p pulls) ended(header natsgo.Header, status string) (left pulls, broken error) {
	switch status {
	case "408": // it has expired
		over := slices.IndexFunc(p, func(one pull) bool {
			return strconv.Itoa(one.left) == header.Get("Nats-Pending-Messages")
		})
		if over = max(0, over); over < len(p) {
			p = slices.Delete(p, over, over+1)
		}
		return p, nil
	case "100":
		return p, nil
	default: // 409: the queue was deleted, or the server goes; 503: nobody answers for it
		return nil, fmt.Errorf("%w: %s %s", transport.ErrUnavailable, status,
			header.Get("Description"))
	}
}

// pull asks for n messages. The caller holds the lock.
func (c *consumer) pull(n int) error {
	if c.nc.IsReconnecting() || c.nc.IsClosed() {
		return fmt.Errorf("%w: the connection is lost", transport.ErrUnavailable)
	}
	stream, name := c.subscriber.place(c.topics)
	request, err := json.Marshal(map[string]any{
		"batch": n, "expires": pullExpires.Nanoseconds(), "idle_heartbeat": heartbeat.Nanoseconds(),
	})
	if err != nil {
		return err
	}
	api := "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + name
	if err := c.nc.PublishRequest(api, c.inbox.Subject, request); err != nil {
		return errors.Join(transport.ErrUnavailable, err)
	}
	if len(c.pulls) == 0 {
		c.heard = time.Now() // from now on it has something to say
	}
	c.pulls = append(c.pulls, pull{n, time.Now().Add(pullExpires)})
	return nil
}
