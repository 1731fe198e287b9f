// Package envelope is the wire message and its codec: one JSON object of nine keys, the same that
// django-cqrs sends, and the metadata that travels beside it in the broker's headers.
//
// The writer is strict, because whoever reads may be a Django worker that dies on a missing key.
// The reader is lenient, because whoever wrote may be a Django master of any age. Between the two
// nothing changes: Encode of what Decode accepted, with its Metadata, decodes to the same message.
// Numbers stay the digits that were sent and never pass through float64.
//
// What the promises rest on here:
//   - P4, P6, P7: every message carries the revision and time of its key; Encode refuses a revision
//     that Data contradicts.
//   - P8: After tells a replica which revision was sent before, so that a gap is seen only where
//     something is missing.
//   - P9: whatever the bytes are, Decode returns a message or a *DecodeError naming the key at
//     fault; it never panics.
//
// Neighbours: outbox and relay write messages, replica reads them, transports carry them. It
// imports the standard library only.
package envelope

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Signal says what happened to the instance, or that it is sent again on request.
type Signal string

// The signals of the wire.
const (
	Save   Signal = "SAVE"
	Delete Signal = "DELETE"
	Sync   Signal = "SYNC"
)

func (s Signal) check() error {
	switch s {
	case Save, Delete, Sync:
		return nil
	}
	return fmt.Errorf("%q is none of SAVE, DELETE and SYNC", string(s))
}

// Message is one message about one key.
type Message struct {
	// Signal is signal_type.
	Signal Signal
	// Model is cqrs_id: the name every service knows the model by.
	Model string
	// PK is instance_pk: a scalar, or an array for a composite key. It is null only in messages of
	// django-cqrs that were dead-lettered or sent again before the instance had a key.
	PK json.RawMessage
	// Data is instance_data as on the wire, cqrs_revision and cqrs_updated included (see Stamp).
	// After Decode it is valid compact JSON; Encode checks and compacts.
	Data json.RawMessage
	// NonFinite holds the fields of Data that are, or have within them, NaN or an infinity, which
	// JSON cannot say: Data has null there, the wire has Python's bare token. Nil if there are
	// none.
	NonFinite NonFinite
	// Revision is the cqrs_revision in Data.
	Revision int64
	// Updated is the cqrs_updated in Data, in UTC; zero when absent or null.
	Updated time.Time
	// Previous is previous_data, an object; nil for null.
	Previous json.RawMessage
	// PreviousNonFinite is NonFinite for Previous.
	PreviousNonFinite NonFinite
	// Meta is meta, an object; nil for null, missing and {}.
	Meta json.RawMessage
	// CorrelationID is correlation_id; empty for null.
	CorrelationID string
	// Retries counts how often a replica has sent the message to itself again.
	Retries int
	// Expires is when a replica may drop the message; zero for never.
	Expires time.Time

	// The rest travels in the metadata, which django-cqrs neither writes nor reads.

	// Key is the key as the ledgers know it: KeyOf(PK) unless the metadata says otherwise. It is
	// empty when PK is null and the metadata has none: such a message can be shown and forwarded
	// but belongs to no key, so a replica must refuse to apply it.
	Key string
	// After is the revision of the key that was sent before this one, NothingBefore for the first;
	// nil when unknown, as from django-cqrs.
	After *int64
	// Queue is the one queue the message is for; empty for all.
	Queue string
	// Force lets a SYNC replace a newer revision.
	Force bool
	// ForceUntil lets a SYNC replace a newer revision that is not later than that, by the clock of
	// Updated; zero for none. Unlike Force it does no harm when it is delivered once more, after a
	// newer message.
	ForceUntil time.Time
	// Incarnation names the master's database and the course of its history: it changes when the
	// database goes back to an earlier state. It is empty where the master does not say, as with
	// django-cqrs.
	Incarnation string
	// Headers is every other metadata key: traceparent and the like. Names that Metadata writes
	// itself are ignored.
	Headers map[string]string
}

// NothingBefore is the After of a message before which no other of its key was sent. Its revision
// may be any, because those before it may have been replaced by it; so without a word of its own it
// would look as if they were missing.
const NothingBefore int64 = -1

// ForceHeader is the metadata key, and in an outbox row the header, of a forced SYNC: true, or the
// time until when. See [Message.ReadForce].
const ForceHeader = "cqrs_force"

// The metadata keys that carry fields of Message.
const (
	metaKey           = "cqrs_key"
	metaRevision      = "cqrs_revision"
	metaAfter         = "cqrs_after"
	metaQueue         = "cqrs_queue"
	metaIncarnation   = "cqrs_incarnation"
	metaCorrelationID = "correlation_id" // Watermill's middleware.CorrelationIDMetadataKey
)

func ownMetadata(name string) bool {
	switch name {
	case metaKey, metaRevision, metaAfter, metaQueue, ForceHeader, metaIncarnation, metaCorrelationID:
		return true
	}
	return false
}

// Metadata returns what travels beside the body. Revision and correlation id stand there too, for
// whoever routes, filters or logs without reading bodies; Decode takes them from the body.
func (m *Message) Metadata() map[string]string {
	md := make(map[string]string, len(m.Headers)+7)
	for name, value := range m.Headers {
		if !ownMetadata(name) {
			md[name] = value
		}
	}
	md[metaRevision] = strconv.FormatInt(m.Revision, 10)
	if m.Key != "" {
		md[metaKey] = m.Key
	}
	if m.After != nil {
		md[metaAfter] = strconv.FormatInt(*m.After, 10)
	}
	if m.Queue != "" {
		md[metaQueue] = m.Queue
	}
	switch {
	case m.Force:
		md[ForceHeader] = "true"
	case !m.ForceUntil.IsZero():
		md[ForceHeader] = FormatTime(m.ForceUntil)
	}
	if m.Incarnation != "" {
		md[metaIncarnation] = m.Incarnation
	}
	if m.CorrelationID != "" {
		md[metaCorrelationID] = m.CorrelationID
	}
	return md
}

// readMetadata is the inverse of Metadata. Only this package writes these names, so a malformed one
// is damage and an error, not something to guess about.
func (m *Message) readMetadata(metadata map[string]string) error {
	for name, value := range metadata {
		switch name {
		case metaKey:
			if value != "" {
				m.Key = value
			}
		case metaAfter:
			after, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return &DecodeError{Key: metaAfter, Err: err}
			}
			m.After = &after
		case metaQueue:
			m.Queue = value
		case ForceHeader:
			if err := m.ReadForce(value); err != nil {
				return &DecodeError{Key: ForceHeader, Err: err}
			}
		case metaIncarnation:
			m.Incarnation = value
		case metaRevision, metaCorrelationID:
		default:
			if m.Headers == nil {
				m.Headers = make(map[string]string, len(metadata))
			}
			m.Headers[name] = value
		}
	}
	return nil
}

// ReadForce sets Force or ForceUntil to what the metadata key cqrs_force says: a boolean, or a
// time.
func (m *Message) ReadForce(value string) (err error) {
	if m.Force, err = strconv.ParseBool(value); err == nil {
		return nil
	}
	if m.ForceUntil, err = ParseTime(value); err != nil {
		return fmt.Errorf("invalid syntax: %q is neither a boolean nor a time", value)
	}
	return nil
}
