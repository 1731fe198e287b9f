// Package outboxtest lets a team's own tests say which entities their code must send, and which it
// must not.
//
//	sent := outboxtest.New(t, db, outbox.Config{})
//	placeOrder(ctx, 7)
//	sent.RequireSaved("order", 7)
//	sent.RequireNothing()
//
// It reads the outbox table, so no relay may run on it meanwhile. It needs no broker and no test
// library.
//
// Neighbours: package outbox, whose messages it reads.
package outboxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/outgoing"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/outbox"
)

// Sent is what the outbox received since New, less what was required already.
type Sent struct {
	t     testing.TB
	queue *queue.Queue
	last  int64 // the newest message seen
	open  []outgoing.Message
}

// Message is one message that the outbox holds.
type Message struct {
	Revision int64
	// instance_data without cqrs_revision and cqrs_updated; NaN is bare (see envelope.Quoted)
	Data     json.RawMessage
	Previous json.RawMessage // nil if there is none
	Meta     json.RawMessage // nil if there is none
}

// New starts looking at the outbox of db. Messages that are there already do not count. config is
// what the code under test gives to outbox.New.
func New(t testing.TB, db *bun.DB, config outbox.Config) *Sent {
	t.Helper()
	q, err := queueOf(db, config)
	if err != nil {
		t.Fatalf("outboxtest: %v", err)
	}
	sent := &Sent{t: t, queue: q}
	sent.readNew()
	sent.open = nil
	return sent
}

// queueOf returns the outbox as a relay reads it.
func queueOf(bunDB *bun.DB, config outbox.Config) (*queue.Queue, error) {
	own, err := db.New(bunDB, db.Names{Schema: config.Schema, Prefix: config.TablePrefix})
	if err != nil {
		return nil, err
	}
	return queue.New(own), nil
}

// RequireSaved fails the test unless the newest message of each key is a SAVE, and returns those
// messages in the order of keys. A key is given as the primary key: a number, a string, anything
// with a text form such as a UUID, or a []any for a composite key. The messages of these keys are
// done with; RequireNothing does not see them.
func (s *Sent) RequireSaved(model string, keys ...any) []Message {
	s.t.Helper()
	return s.require(envelope.Save, model, keys)
}

// RequireDeleted is RequireSaved for DELETE.
func (s *Sent) RequireDeleted(model string, keys ...any) []Message {
	s.t.Helper()
	return s.require(envelope.Delete, model, keys)
}

// RequireNothing fails the test if the outbox received a message that no other call has required.
func (s *Sent) RequireNothing() {
	s.t.Helper()
	s.readNew()
	if len(s.open) > 0 {
		s.t.Fatalf("outboxtest: want no further message, the outbox holds:\n%s", s.list())
	}
}

// asSent is an object of the outbox as the wire has it.
func (s *Sent) asSent(stored json.RawMessage) json.RawMessage {
	object, err := envelope.Restored(stored)
	if err != nil {
		s.t.Fatalf("outboxtest: %v", err)
	}
	return object
}

func (s *Sent) require(signal envelope.Signal, model string, keys []any) []Message {
	s.t.Helper()
	s.readNew()
	messages := make([]Message, len(keys))
	for i, key := range keys {
		text, err := keyText(key)
		if err != nil {
			s.t.Fatalf("outboxtest: %v is no key: %v", key, err)
		}
		newest := -1
		for at, m := range s.open {
			if m.Model == model && m.Key == text {
				newest = at
			}
		}
		if newest < 0 || s.open[newest].Signal != string(signal) {
			s.t.Fatalf("outboxtest: want a %s of %s %s, the outbox holds:\n%s", signal, model, text,
				s.list())
		}
		m := s.open[newest]
		messages[i] = Message{m.Revision, s.asSent(m.Data), s.asSent(m.Previous), m.Meta}
		s.open = slices.DeleteFunc(s.open, func(m outgoing.Message) bool {
			return m.Model == model && m.Key == text
		})
	}
	return messages
}

// readNew reads what came since the last time.
func (s *Sent) readNew() {
	s.t.Helper()
	messages, err := s.queue.Unsent(context.WithoutCancel(s.t.Context()), s.last)
	if err != nil {
		s.t.Fatalf("outboxtest: %v", err)
	}
	if n := len(messages); n > 0 {
		s.last = messages[n-1].ID
	}
	s.open = append(s.open, messages...)
}

func (s *Sent) list() string {
	if len(s.open) == 0 {
		return "  nothing"
	}
	lines := make([]string, len(s.open))
	for i, m := range s.open {
		lines[i] = fmt.Sprintf("  %s of %s %s, revision %d: %s", m.Signal, m.Model, m.Key,
			m.Revision, m.Data)
	}
	return strings.Join(lines, "\n")
}

func keyText(key any) (string, error) {
	pk, err := json.Marshal(key)
	if err != nil {
		return "", err
	}
	return envelope.KeyOf(pk)
}
