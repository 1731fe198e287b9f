package amqp

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// options takes this package's parameters out of a URL's query and collects what is wrong with
// them.
type options struct {
	given url.Values
	errs  []error
}

// brokers are the parameters that amqp091 reads
// (https://www.rabbitmq.com/docs/uri-query-parameters).
var brokers = []string{
	"auth_mechanism", "cacertfile", "certfile", "channel_max", "connection_timeout", "heartbeat",
	"keyfile", "server_name_indication",
}

func (o *options) text(name, standard string) string {
	value := o.given.Get(name)
	o.given.Del(name)
	if value == "" {
		return standard
	}
	return value
}

func (o *options) wrong(name, value, want string) {
	o.errs = append(o.errs, fmt.Errorf("URL parameter %s=%s: want %s", name, value, want))
}

func (o *options) boolean(name string, standard bool) bool {
	text := o.text(name, strconv.FormatBool(standard))
	value, err := strconv.ParseBool(text)
	if err != nil {
		o.wrong(name, text, "true or false")
	}
	return value
}

func (o *options) duration(name string, standard time.Duration) time.Duration {
	text := o.text(name, standard.String())
	value, err := time.ParseDuration(text)
	if err != nil || value <= 0 {
		o.wrong(name, text, "a positive duration such as 30s")
	}
	return value
}

func (o *options) positive(name string, standard int) int {
	text := o.text(name, strconv.Itoa(standard))
	value, err := strconv.Atoi(text)
	if err != nil || value <= 0 {
		o.wrong(name, text, "a positive number")
	}
	return value
}

func (o *options) queueType() amqp091.Table {
	switch text := o.text("queue_type", "classic"); text {
	case "classic":
		return nil
	case "quorum":
		// A nack means "later", never "drop". RabbitMQ 4 drops a quorum queue's message at the
		// twentieth; it takes -1 for "never", which older brokers refuse, so here is a number that
		// both take.
		return amqp091.Table{"x-queue-type": "quorum", "x-delivery-limit": math.MaxInt32}
	default:
		o.wrong("queue_type", text, "classic or quorum")
		return nil
	}
}

// passOn returns what is left for amqp091, which would silently ignore a parameter it does not
// know.
func (o *options) passOn() url.Values {
	for _, name := range slices.Sorted(maps.Keys(o.given)) {
		if !slices.Contains(brokers, name) {
			o.errs = append(o.errs,
				fmt.Errorf("unknown URL parameter %q: want exchange, queue_type, mandatory, "+
					"declare, connections, confirm_timeout, window, or RabbitMQ's %s",
					name, strings.Join(brokers, ", ")))
		}
	}
	return o.given
}
