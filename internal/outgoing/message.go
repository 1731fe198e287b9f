// Package outgoing is what goes out of a master's database: the message, which is a row of
// outbox_messages, and the lane that its key belongs to. Who appends messages (internal/master) and
// who sends them (internal/queue) share no more.
package outgoing

import (
	"encoding/json"
	"time"
)

// Message is one row of outbox_messages: everything of a wire message that is known when the
// transaction commits. The revision and the time are columns, not part of Data, so that a row can
// be written by the same statement that draws its revision; the relay puts them into the body.
type Message struct {
	// ID is drawn by the database. Per key it grows with the revision.
	ID       int64
	Lane     int
	Model    string
	Key      string
	Revision int64
	// After is the revision of the key that was sent before this one, nil for the first.
	After *int64
	// Signal is SAVE, DELETE or SYNC.
	Signal string
	// Queue is the one replica queue this goes to, empty for all.
	Queue string
	// PK is instance_pk: a JSON scalar, or an array for a composite key.
	PK json.RawMessage
	// Data is instance_data without cqrs_revision and cqrs_updated: a JSON object.
	Data json.RawMessage
	// Previous and Meta are JSON objects or nil.
	Previous json.RawMessage
	Meta     json.RawMessage
	// Headers travel in the broker's headers: traceparent and the like.
	Headers       map[string]string
	CorrelationID string
	// Updated is cqrs_updated: the ledger's time of this revision.
	Updated time.Time
	// Created is when the row was appended, as the database says. With the rest it tells the
	// message from another one that was given its identity after the database went back.
	Created time.Time
	// Expires is zero for never.
	Expires time.Time
	// Keep says that no newer message of the key replaces this one. Without it, what has no
	// Previous is dropped when the key has a newer SAVE or DELETE for all queues.
	Keep bool
	// Follows says that the message of revision After, or none at all, is the last thing of the key
	// that went into the outbox before this one: so it may follow that at once (Handover). No
	// column holds it, because only the transaction that appends the message knows it.
	Follows bool
}

// Replaceable says whether a newer message of the key that is replaceable too makes this one
// superfluous.
func (m *Message) Replaceable() bool {
	return !m.Keep && m.Previous == nil && m.Queue == "" &&
		(m.Signal == "SAVE" || m.Signal == "DELETE")
}
