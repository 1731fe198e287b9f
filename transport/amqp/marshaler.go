package amqp

import (
	"encoding/json"
	"fmt"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

// Marshaler turns Watermill messages into AMQP messages and back: the UUID is the message id,
// metadata are string headers, the payload is the body.
//
// Unmarshal never fails, because a message that cannot be unmarshalled would come back for ever:
// watermill-amqp's own rejects every header that is not a string, so whatever RabbitMQ adds on
// redelivery or dead-lettering.
type Marshaler struct{}

// Marshal implements watermill-amqp's Marshaler.
func (Marshaler) Marshal(msg *message.Message) (amqp091.Publishing, error) {
	headers := make(amqp091.Table, len(msg.Metadata))
	for key, value := range msg.Metadata {
		if key != transport.ExpirationKey && key != transport.DirectKey {
			headers[key] = value
		}
	}
	return amqp091.Publishing{
		// django-cqrs's; application/json makes Kombu decode it, and kills its workers
		ContentType:  "text/plain",
		DeliveryMode: amqp091.Persistent,
		MessageId:    msg.UUID,
		Expiration:   msg.Metadata.Get(transport.ExpirationKey),
		Headers:      headers,
		Body:         msg.Payload,
	}, nil
}

// Unmarshal implements watermill-amqp's Marshaler. Headers that are not text are rendered as text,
// tables and arrays as JSON; one without a sensible text is left out.
func (Marshaler) Unmarshal(delivery amqp091.Delivery) (*message.Message, error) {
	msg := message.NewMessage(delivery.MessageId, delivery.Body)
	for key, value := range delivery.Headers {
		if text, ok := headerText(value); ok {
			msg.Metadata[key] = text
		}
	}
	if msg.UUID == "" { // from a publisher of watermill-amqp
		msg.UUID = msg.Metadata[wamqp.DefaultMessageUUIDHeaderKey]
	}
	delete(msg.Metadata, wamqp.DefaultMessageUUIDHeaderKey)
	return msg, nil
}

func headerText(value any) (text string, ok bool) {
	switch v := value.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case []byte:
		return string(v), true
	case time.Time:
		return v.UTC().Format(time.RFC3339), true
	case amqp091.Table, []any, amqp091.Decimal:
		text, err := json.Marshal(v)
		return string(text), err == nil
	default: // numbers and booleans
		return fmt.Sprint(v), true
	}
}

// checkLimits refuses what the protocol has no room for. amqp091 notices only in the middle of a
// frame and gives up the connection, which would look like an unavailable broker, for ever.
func checkLimits(publishing amqp091.Publishing) error {
	if err := publishing.Headers.Validate(); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	for _, text := range [...]string{
		publishing.MessageId, publishing.ContentType, publishing.ContentEncoding,
		publishing.CorrelationId,
		publishing.ReplyTo, publishing.Expiration, publishing.Type, publishing.UserId, publishing.AppId,
	} {
		if err := checkShort(text); err != nil {
			return err
		}
	}
	for key := range publishing.Headers {
		if err := checkShort(key); err != nil {
			return fmt.Errorf("metadata key: %w", err)
		}
	}
	return nil
}

func checkShort(text string) error {
	if len(text) > 255 {
		return fmt.Errorf("%.20q… is %d bytes long: AMQP takes at most 255 in topics, ids and "+
			"metadata keys", text, len(text))
	}
	return nil
}
