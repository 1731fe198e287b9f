package redis

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/expiry"
)

// The fields of an entry. Metadata have a letter before their keys, so that they are no others.
const (
	uuidField    = "uuid"
	topicField   = "topic"
	payloadField = "payload"
	metadataMark = "m:"
)

// fields returns a message as an entry has it.
func fields(
	topic string, msg *message.Message,
) (all []any, ttl time.Duration, limited bool, err error) {
	ttl, limited, err = expiry.Of(msg.Metadata)
	if err != nil {
		return nil, 0, false, err
	}
	travelling := expiry.Travelling(msg.Metadata)
	all = make([]any, 0, 6+2*len(travelling))
	all = append(all, uuidField, msg.UUID, topicField, topic, payloadField, []byte(msg.Payload))
	for _, key := range slices.Sorted(maps.Keys(travelling)) {
		all = append(all, metadataMark+key, travelling[key])
	}
	return all, ttl, limited, nil
}

// entry is a message in a stream.
type entry struct {
	id     string
	fields []any
}

// entries reads a script's answer.
func entries(answer any) (all []entry) {
	list, _ := answer.([]any)
	for _, one := range list {
		pair, _ := one.([]any)
		if len(pair) != 2 {
			continue
		}
		id, _ := pair[0].(string)
		fields, _ := pair[1].([]any)
		all = append(all, entry{id, fields})
	}
	return all
}

// message never fails, because one that cannot be read would come back for ever.
func (e entry) message(queue string) *message.Message {
	msg := message.NewMessage(e.id, nil)
	for i := 0; i+1 < len(e.fields); i += 2 {
		name, _ := e.fields[i].(string)
		value, _ := e.fields[i+1].(string)
		switch {
		case name == uuidField && value != "":
			msg.UUID = value
		case name == payloadField:
			msg.Payload = []byte(value)
		case name == topicField && strings.HasPrefix(value, transport.DirectTopic(queue, "")):
			msg.Metadata.Set(transport.DirectKey, "true")
		case strings.HasPrefix(name, metadataMark):
			msg.Metadata.Set(strings.TrimPrefix(name, metadataMark), value)
		}
	}
	return msg
}
