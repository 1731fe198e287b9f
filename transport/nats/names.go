package nats

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cqrsync/cqrsync/transport"
)

// longestTopic is as RabbitMQ's, in bytes.
const longestTopic = 255

const hexDigits = "0123456789ABCDEF"

// subject returns what a topic is called in a stream. Two topics never have the same one.
func subject(stream, topic string) string {
	var b strings.Builder
	b.Grow(len(stream) + 1 + len(topic))
	b.WriteString(stream)
	b.WriteByte('.')
	for i := range len(topic) {
		c := topic[i]
		inner := c != '.' || i > 0 && i < len(topic)-1 && topic[i-1] != '.'
		if inner && c > ' ' && c < 0x7f && c != '*' && c != '>' && c != '%' {
			b.WriteByte(c)
			continue
		}
		escape(&b, c)
	}
	return b.String()
}

func escape(b *strings.Builder, c byte) {
	b.WriteByte('%')
	b.WriteByte(hexDigits[c>>4])
	b.WriteByte(hexDigits[c&15])
}

// directSubjects is the filter of everything that is for one queue alone.
func directSubjects(stream, queue string) string {
	return strings.TrimSuffix(subject(stream, transport.DirectTopic(queue, "x")), "x") + ">"
}

// consumerName returns what a queue's consumer is called.
func consumerName(queue string) string {
	var b strings.Builder
	for i := range len(queue) {
		c := queue[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
			continue
		}
		escape(&b, c)
	}
	return b.String()
}

func checkTopic(topic string) error {
	if topic == "" {
		return errors.New("the topic is empty")
	}
	if len(topic) > longestTopic {
		return fmt.Errorf("the topic has %d bytes: want at most %d", len(topic), longestTopic)
	}
	return nil
}

// inboxStream and notesStream stand beside a stream.
func inboxStream(stream string) string { return stream + "_inbox" }
func notesStream(stream string) string { return stream + "_notes" }

// streamOf returns the stream that a topic's messages are in.
func streamOf(stream, topic string) string {
	if isInboxTopic(topic) {
		return inboxStream(stream)
	}
	return stream
}
