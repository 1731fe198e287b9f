package delivery

import "github.com/ThreeDotsLabs/watermill/message"

// Settle acknowledges messages one by one, and returns others.
func Settle(acked, returned []*message.Message) {
	for _, msg := range acked {
		msg.Ack()
	}
	for _, msg := range returned {
		msg.Nack()
	}
}
