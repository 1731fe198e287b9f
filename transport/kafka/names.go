package kafka

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cqrsync/cqrsync/transport"
)

// longestTopic is Kafka's limit of a topic's name.
const longestTopic = 249

// modelTopic returns Kafka's name of a topic that is broadcast.
func (c Config) modelTopic(topic string) string { return c.Prefix + "." + encodeName(topic) }

// queueTopic returns the name of the topic with what is for one queue alone.
func (c Config) queueTopic(queue string) string { return c.Prefix + "-queue." + encodeName(queue) }

// notesTopic is never written to: groups that read it have a note.
func (c Config) notesTopic() string { return c.Prefix + "-notes" }

// progressGroup is the consumer group of a queue. Its offsets say what is acknowledged.
func (c Config) progressGroup(queue string) string { return c.Prefix + "." + queue }

// boundGroup is a group without members. Its offsets say of each topic of a queue from where on
// its messages are for the queue.
func (c Config) boundGroup(queue string) string { return c.Prefix + "-bound." + queue }

// noteGroup is a group without members, whose offset has the note about a queue.
func (c Config) noteGroup(queue string) string { return c.Prefix + "-note." + queue }

// place returns Kafka's topic for what is published to a topic, and for which queue alone.
func (c Config) place(topic string) (name, queue string, err error) {
	if topic == "" {
		return "", "", errors.New("the topic is empty")
	}
	name = c.modelTopic(topic)
	if rest, direct := strings.CutPrefix(topic, transport.DirectTopic("", "")[:len("cqrs.")]); direct {
		if q, model, found := strings.Cut(rest, "."); found && q != "" && model != "" {
			name, queue = c.queueTopic(q), q
		}
	}
	return name, queue, checkName(topic, name)
}

func checkName(of, name string) error {
	if len(name) > longestTopic {
		return fmt.Errorf("%.40q would be the Kafka topic %.40q… of %d bytes: want a name of which "+
			"that has at most %d", of, name, len(name), longestTopic)
	}
	return nil
}

// checkQueue refuses what cannot be told apart in a direct topic.
func checkQueue(queue string) error {
	switch {
	case queue == "":
		return errors.New("the queue has no name")
	case strings.Contains(queue, "."):
		return fmt.Errorf("queue %.40q: want a name without dots", queue)
	case len(queue) > longestName:
		return fmt.Errorf("queue %.40q…: want at most %d bytes", queue, longestName)
	}
	return nil
}

// encodeName keeps what Kafka allows in a name, and writes any other byte as -x and two digits.
func encodeName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		ch := name[i]
		allowed := ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' ||
			ch == '_' || ch == '.' || ch == '-' && !strings.HasPrefix(name[i:], "-x")
		if allowed {
			b.WriteByte(ch)
		} else {
			fmt.Fprintf(&b, "-x%02x", ch)
		}
	}
	return b.String()
}

// inboxTopics is what the topics of inboxes begin with.
var inboxTopics = transport.MasterTopic("")

func isInboxTopic(topic string) bool { return strings.HasPrefix(topic, inboxTopics) }

const deadLetters = "dead_letter_"

func deadLetterQueue(queue string) string { return deadLetters + queue }

func isDeadLetterQueue(queue string) bool { return strings.HasPrefix(queue, deadLetters) }
