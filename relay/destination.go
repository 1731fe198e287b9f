package relay

import (
	"log/slog"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/transport"
)

// destinations are the topics to which the broker takes nothing: no queue, a full one, no
// permission. Their messages wait, the longer the longer that lasts, and spend no attempts: an
// operator mends it, and none of them may be given up before.
type destinations struct {
	cfg      Config
	log      *slog.Logger
	jitter   func() float64
	troubled map[string]*trouble
}

type trouble struct {
	since  time.Time
	rounds int       // of tries that failed
	next   time.Time // when the next round begins: until then what fails belongs to this one
}

func newDestinations(cfg Config, log *slog.Logger, jitter func() float64) destinations {
	return destinations{cfg: cfg, log: log, jitter: jitter, troubled: map[string]*trouble{}}
}

// refused notes that the broker did not take a message to the topic, and returns how long its key
// waits.
func (d *destinations) refused(topic string, m *queue.Claimed, err error) time.Duration {
	now := time.Now()
	t := d.troubled[topic]
	if t == nil {
		t = &trouble{since: now}
		d.troubled[topic] = t
		d.log.Warn("the broker does not take the messages of a topic, they wait", "topic", topic,
			"model", m.Model,
			"key", m.Key, "revision", m.Revision, "error", err)
	}
	wait := d.cfg.retryWait(max(t.rounds-1, 0), d.jitter)
	if !now.Before(t.next) {
		wait = d.cfg.retryWait(t.rounds, d.jitter)
		t.rounds++
		t.next = now.Add(wait / 2) // waits differ by a fifth
	}
	return wait
}

// taken notes that the broker took all of a batch's messages to the topic.
func (d *destinations) taken(topic string) {
	if t := d.troubled[topic]; t != nil {
		d.log.Info("the broker takes the messages of a topic again", "topic", topic,
			"after", time.Since(t.since).Round(time.Millisecond))
		delete(d.troubled, topic)
	}
}

func topicOf(m *queue.Claimed) string {
	if m.Queue != "" {
		return transport.DirectTopic(m.Queue, m.Model)
	}
	return m.Model
}
