// Package topics holds what transports do alike with the topics of one subscription.
package topics

import (
	"errors"
	"fmt"
)

// RequireOneQueue returns an error unless topics, at least one, have one queue.
func RequireOneQueue(queue func(topic string) string, topics []string) error {
	if len(topics) == 0 {
		return errors.New("subscribe: want at least one topic")
	}
	for _, topic := range topics[1:] {
		if queue(topic) != queue(topics[0]) {
			return fmt.Errorf("subscribe to %s and %s at once: they have the queues %s and %s, "+
				"want one",
				topics[0], topic, queue(topics[0]), queue(topic))
		}
	}
	return nil
}

// Name is how an error or a log line calls topics, at least one.
func Name(topics []string) string {
	if len(topics) == 1 {
		return topics[0]
	}
	return fmt.Sprintf("%s and %d more", topics[0], len(topics)-1)
}

// RequireName returns an error unless the subscriber was opened for a named queue.
func RequireName(queue string) error {
	if queue == "" {
		return errors.New("the subscriber has one queue per topic: open it for a named queue")
	}
	return nil
}
