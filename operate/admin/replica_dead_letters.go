package admin

import (
	"context"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// ReplicaDeadLetter is a message that a replica could not apply: in its
// database, or in a queue of the broker.
type ReplicaDeadLetter struct {
	// ID chooses it in a filter.
	ID int64
	// Queue is the replica's in a database, and on a broker the one that it is in.
	Queue string
	// Model, Key and Revision are empty and nil where the message could not be read.
	Model    string
	Key      string
	Revision *int64
	// Retries is how often Django tried it. Only a broker has it.
	Retries *int64
	// Error is why it was given up. Django does not say.
	Error string
	// Dead is when it was given up. A broker does not know.
	Dead time.Time
	// Body and Metadata are what the broker delivered.
	Body     []byte
	Metadata map[string]string
}

// WithoutContent is the dead letter as a list shows it.
func (l ReplicaDeadLetter) WithoutContent() ReplicaDeadLetter {
	l.Body, l.Metadata = nil, nil
	return l
}

// MarshalJSON writes body, or body_base64 where it is no text. Names are never changed, only added.
func (l ReplicaDeadLetter) MarshalJSON() ([]byte, error) {
	object := struct {
		ID       int64             `json:"id"`
		Queue    string            `json:"queue"`
		Model    string            `json:"model,omitempty"`
		Key      string            `json:"key,omitempty"`
		Revision *int64            `json:"revision,omitempty"`
		Retries  *int64            `json:"retries,omitempty"`
		Error    string            `json:"error"`
		Dead     time.Time         `json:"dead,omitzero"`
		Body     string            `json:"body,omitempty"`
		Base64   []byte            `json:"body_base64,omitempty"`
		Metadata map[string]string `json:"metadata,omitempty"`
	}{
		ID: l.ID, Queue: l.Queue, Model: l.Model, Key: l.Key, Revision: l.Revision, Retries: l.Retries,
		Error: l.Error, Dead: l.Dead, Metadata: l.Metadata,
	}
	if utf8.Valid(l.Body) {
		object.Body = string(l.Body)
	} else {
		object.Base64 = l.Body
	}
	return json.Marshal(object)
}

// DeadLetters returns at most limit of the dead letters in the database, oldest first; 0 means all.
func (r *Replica) DeadLetters(
	ctx context.Context, f DeadLetterFilter, limit int,
) ([]ReplicaDeadLetter, error) {
	filter, err := f.in(ctx, r.tables.Database)
	if err != nil {
		return nil, err
	}
	stored, err := r.tables.DeadLetters(ctx, filter, limit)
	letters := make([]ReplicaDeadLetter, len(stored))
	for i, d := range stored {
		letters[i] = ReplicaDeadLetter{
			ID: d.ID, Queue: d.Queue, Model: d.Model, Key: d.Key, Revision: d.Revision,
			Error: d.Error, Dead: d.Dead, Body: d.Body, Metadata: d.Metadata,
		}
	}
	return letters, err
}

// PurgeDeadLetters forgets dead letters of the database for good and returns how many.
func (r *Replica) PurgeDeadLetters(ctx context.Context, f DeadLetterFilter) (int64, error) {
	filter, err := f.in(ctx, r.tables.Database)
	if err != nil {
		return 0, err
	}
	return r.tables.RemoveDeadLetters(ctx, filter)
}
