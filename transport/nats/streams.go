package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

const (
	// repetitions is for how long the server remembers the ids of messages.
	repetitions = 2 * time.Minute
	// notesExpire is after how long without a word the note of a queue is forgotten.
	notesExpire = 7 * 24 * time.Hour
)

// streams are those of a Config.
func (c Config) streams() []jetstream.StreamConfig {
	main := jetstream.StreamConfig{
		Name:        c.Stream,
		Description: "cqrsync: messages, each until all queues of its subject have acknowledged it",
		Retention:   jetstream.InterestPolicy,
		AllowMsgTTL: true,
		Duplicates:  repetitions,
		MaxBytes:    -1,
		Discard:     jetstream.DiscardNew,
	}
	if c.MaxBytes > 0 {
		main.MaxBytes = c.MaxBytes
	}
	inboxes := jetstream.StreamConfig{
		Name:              inboxStream(c.Stream),
		Description:       "cqrsync: what replicas send to their masters",
		Retention:         jetstream.InterestPolicy,
		AllowMsgTTL:       true,
		Duplicates:        repetitions,
		MaxAge:            inbox.TTL,
		MaxMsgsPerSubject: inbox.Most,
	}
	notes := jetstream.StreamConfig{
		Name:              notesStream(c.Stream),
		Description:       "cqrsync: a word about each queue",
		MaxAge:            notesExpire,
		MaxMsgsPerSubject: 1,
	}
	all := []jetstream.StreamConfig{main, inboxes, notes}
	for i := range all {
		all[i].Subjects = []string{all[i].Name + ".>"}
		all[i].Storage = jetstream.FileStorage
		all[i].Replicas = c.Replicas
	}
	return all
}

// declare makes the streams that are missing, all or those of some names, and looks whether those
// that are there can be used. Where NoDeclare is set it only looks.
func (c Config) declare(ctx context.Context, js jetstream.JetStream, names ...string) error {
	for _, want := range c.streams() {
		if len(names) > 0 && !slices.Contains(names, want.Name) {
			continue
		}
		if err := c.declareStream(ctx, js, want); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	return nil
}

var errNoStream = errors.New("the server has no such stream")

func (c Config) declareStream(
	ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig,
) error {
	find := func(ctx context.Context) (jetstream.Stream, error) { return js.Stream(ctx, want.Name) }
	stream, err := ask(ctx, find)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if c.NoDeclare {
			return fmt.Errorf("%w: make it, with the subjects %s, retention %s and message TTLs, or "+
				"leave declare=false out of the URL", errNoStream, want.Subjects[0], want.Retention)
		}
		stream, err = ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
			return js.CreateStream(ctx, want)
		})
	}
	if isCode(err, jetstream.JSErrCodeStreamNameInUse) { // somebody else has just made it
		stream, err = ask(ctx, find)
	}
	if err != nil {
		return explain(ctx, err)
	}
	have := stream.CachedInfo().Config
	var wrong []string
	if have.Retention != want.Retention {
		wrong = append(wrong, fmt.Sprintf("retention is %s, want %s", have.Retention, want.Retention))
	}
	if want.AllowMsgTTL && !have.AllowMsgTTL {
		wrong = append(wrong, "message TTLs are off, want them on")
	}
	if len(have.Subjects) != 1 || have.Subjects[0] != want.Subjects[0] {
		wrong = append(wrong, fmt.Sprintf("subjects are %v, want %v", have.Subjects, want.Subjects))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("it is there and otherwise: %s; change it, or give the URL another one by "+
			"stream=NAME", strings.Join(wrong, ", "))
	}
	return nil
}
