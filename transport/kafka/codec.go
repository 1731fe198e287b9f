package kafka

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/expiry"
)

const (
	// uuidHeader is watermill-kafka's, whose publishers and subscribers read these messages.
	uuidHeader = "_watermill_message_uuid"
	// keyHeader has the key of a row, whose messages stay in order.
	keyHeader = "cqrs_key"
)

// encode returns a message as the brokers take it. The first header is the UUID, so that metadata
// may have any names.
func (c Config) encode(topic string, msg *message.Message) (*kgo.Record, error) {
	name, queue, err := c.place(topic)
	if err != nil {
		return nil, err
	}
	ttl, limited, err := expiry.Of(msg.Metadata)
	if err != nil {
		return nil, err
	}
	travelling := expiry.Travelling(msg.Metadata)
	r := &kgo.Record{Topic: name, Value: append([]byte{}, msg.Payload...)} // null would delete
	r.Headers = make([]kgo.RecordHeader, 0, len(travelling)+2)
	add := func(key, value string) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	add(uuidHeader, msg.UUID)
	if limited {
		add(transport.ExpirationKey, strconv.FormatInt(ttl.Milliseconds(), 10))
	}
	for key, value := range travelling {
		add(key, value)
	}
	key := msg.Metadata[keyHeader]
	switch {
	case isDeadLetterQueue(queue):
		// Each letter has a key of its own, by which it is removed.
		r.Key = []byte(watermill.NewUUID())
	case key == "":
		// Compaction keeps what is about no row.
		r.Key, r.Partition = []byte(watermill.NewUUID()), keyless
	case queue != "":
		r.Key = []byte(strings.TrimPrefix(topic, transport.DirectTopic(queue, "")) + "\x00" + key)
	default:
		r.Key = []byte(key)
	}
	return r, nil
}

// decode never fails, because a message that cannot be read would come back for ever.
func decode(r *kgo.Record) *message.Message {
	msg := message.NewMessage(fmt.Sprintf("%s:%d:%d", r.Topic, r.Partition, r.Offset),
		append([]byte{}, r.Value...))
	identified := false
	for _, h := range r.Headers {
		switch {
		case h.Key == uuidHeader && !identified:
			identified = true
			if len(h.Value) > 0 {
				msg.UUID = string(h.Value)
			}
		case h.Key != transport.ExpirationKey && h.Key != transport.DirectKey:
			msg.Metadata[h.Key] = string(h.Value)
		}
	}
	return msg
}

// expired says that a message has waited for too long, by the clocks of who published it and of
// this process.
func expired(r *kgo.Record, now time.Time) bool {
	for _, h := range r.Headers {
		if h.Key != transport.ExpirationKey {
			continue
		}
		ttl, err := strconv.ParseInt(string(h.Value), 10, 64)
		return err == nil && now.Sub(r.Timestamp) >= time.Duration(ttl)*time.Millisecond
	}
	return false
}

// keyless stands as the partition of a record whose key says nothing about order: all of these go
// into one partition, in which they stay in order.
const keyless = -1

// partitioner is Kafka's own for records with the key of a row.
type partitioner struct{ kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.Partitioner.ForTopic(topic)}
}

type topicPartitioner struct{ kgo.TopicPartitioner }

// RequiresConsistency implements kgo.TopicPartitioner: a partition without a leader is waited for.
func (topicPartitioner) RequiresConsistency(*kgo.Record) bool { return true }

func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition == keyless {
		return 0
	}
	return p.TopicPartitioner.Partition(r, n)
}
