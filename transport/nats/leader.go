package nats

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// Of a cluster one server leads a stream, and it alone confirms. When it dies the others choose
// another one, which does not know what the last one had not passed on yet, and never says so. So
// whoever waits for confirms asks who leads. What was sent to a former leader is of unknown fate,
// as after a lost connection: it is sent again, and stored once.

const (
	// askLeader is after how long without a confirm the leader is asked for, and again.
	askLeader = time.Second
	// firstLeader and aboutLeader are where the answers go, in place of a call's number: that to
	// the first question, when nothing was sent yet, and those to later ones.
	firstLeader = "first"
	aboutLeader = "leader"
)

var errMoved = errors.New("the stream has another leader than the messages were sent to")

// askForLeader asks, and does not wait for the answer.
func (s *session) askForLeader(f *flight) {
	s.mu.Lock()
	stream := ""
	for i, subject := range f.subjects {
		if subject != "" && !f.fates[i].known {
			stream, _, _ = strings.Cut(subject, ".")
			break
		}
	}
	s.mu.Unlock()
	if stream != "" {
		s.ask(aboutLeader, stream)
	}
}

func (s *session) ask(as, stream string) {
	reply := s.inbox + as + "." + stream
	_ = s.nc.PublishRequest("$JS.API.STREAM.INFO."+stream, reply, nil) // or else at the next silence
}

// learnLeader takes the answer. The caller holds the lock.
func (s *session) learnLeader(as, stream string, m *natsgo.Msg) {
	var answer struct {
		Cluster struct {
			Leader string `json:"leader"`
		} `json:"cluster"`
	}
	if json.Unmarshal(m.Data, &answer) != nil || answer.Cluster.Leader == "" {
		return // none at the moment, or no cluster
	}
	before := s.leaders[stream]
	s.leaders[stream] = answer.Cluster.Leader
	// Where nobody led at first, who leads now did not when the messages were sent.
	if as == aboutLeader && before != answer.Cluster.Leader && s.flight != nil {
		s.flight.moved = true
		s.flight.wake()
	}
}
