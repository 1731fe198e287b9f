package admin

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// DeadLetterFilter chooses dead letters: those for which everything holds that is
// set. The zero value chooses all.
type DeadLetterFilter struct {
	// IDs, Model and Key are what a dead letter may have.
	IDs        []int64
	Model, Key string
	// OlderThan chooses those given up so long ago, by the clock of the database, which dated them.
	// A broker dates none.
	OlderThan time.Duration
	// After chooses those behind the one with this id, in the order in which they are listed.
	After int64
}

// in is the filter as a database has it.
func (f DeadLetterFilter) in(ctx context.Context, d *db.Database) (db.DeadLetterFilter, error) {
	filter := db.DeadLetterFilter{IDs: f.IDs, Model: f.Model, Key: f.Key, After: f.After}
	if f.OlderThan <= 0 {
		return filter, nil
	}
	now, err := d.Now(ctx)
	filter.Before = now.Add(-f.OlderThan)
	return filter, err
}

// DeadLetter is a message that the relays gave up. Its names in JSON are never changed, only added.
type DeadLetter struct {
	// ID chooses it in a filter.
	ID int64 `json:"id"`
	// Model, Key and Revision say of what it is; Signal is SAVE, DELETE or SYNC.
	Model    string `json:"model"`
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Signal   string `json:"signal"`
	// Queue is the one replica that it was for, empty for all.
	Queue string `json:"queue,omitempty"`
	// Attempts is how often it was tried, and Error why the last one failed.
	Attempts int    `json:"attempts"`
	Error    string `json:"error"`
	// Created is when it was written, and Dead when it was given up.
	Created time.Time `json:"created"`
	Dead    time.Time `json:"dead"`

	*DeadLetterContent
}

// DeadLetterContent is what a dead letter carries.
type DeadLetterContent struct {
	// After is the revision of the key that was sent before, nil for the first.
	After *int64 `json:"after"`
	// PK, Data, Previous and Meta are instance_pk, instance_data, previous_data and custom_meta of
	// the wire, where it has them.
	PK       json.RawMessage `json:"pk"`
	Data     json.RawMessage `json:"data"`
	Previous json.RawMessage `json:"previous,omitempty"`
	Meta     json.RawMessage `json:"meta,omitempty"`
	// Headers travel in the broker's headers.
	Headers       map[string]string `json:"headers,omitempty"`
	CorrelationID string            `json:"correlation_id,omitempty"`
	// Updated is the ledger's time of the revision.
	Updated time.Time `json:"updated"`
	// Expires is nil for never.
	Expires *time.Time `json:"expires,omitempty"`
}

func deadLetterOf(d queue.DeadLetter) DeadLetter {
	content := &DeadLetterContent{
		After: d.After, PK: d.PK, Data: d.Data, Previous: d.Previous, Meta: d.Meta, Headers: d.Headers,
		CorrelationID: d.CorrelationID, Updated: d.Updated,
	}
	if !d.Expires.IsZero() {
		content.Expires = &d.Expires
	}
	return DeadLetter{
		ID: d.ID, Model: d.Model, Key: d.Key, Revision: d.Revision, Signal: d.Signal, Queue: d.Queue,
		Attempts: d.Attempts, Error: d.Error, Created: d.Created, Dead: d.Dead,
		DeadLetterContent: content,
	}
}

// DeadLetters calls fn for at most limit dead letters, oldest first; 0 means all. fn must not use
// the same database: on SQLite it may wait for itself.
func (m *Master) DeadLetters(
	ctx context.Context, f DeadLetterFilter, limit int, fn func(DeadLetter) error,
) error {
	filter, err := f.in(ctx, m.queue.Database)
	if err != nil {
		return err
	}
	return m.queue.DeadLetters(ctx, filter, limit, func(d queue.DeadLetter) error {
		return fn(deadLetterOf(d))
	})
}

// RetriedDeadLetter is what became of a dead letter that was to be sent again.
type RetriedDeadLetter struct {
	ID         int64
	Model, Key string
	// Revision is 0 where it could not be read.
	Revision int64
	// Err says why it stays, nil where it was sent.
	Err error
}

// deadLettersPage is how many dead letters are held at once.
const deadLettersPage = 500

// RetryDeadLetters puts dead letters back into the outbox, and calls tell for each. One stays, with
// its reason, if something newer of its key was sent or is on its way: sent now it would overtake,
// or bring back what was deleted.
func (m *Master) RetryDeadLetters(
	ctx context.Context, f DeadLetterFilter, tell func(RetriedDeadLetter) error,
) error {
	filter, err := f.in(ctx, m.queue.Database)
	if err != nil {
		return err
	}
	for {
		var letters []RetriedDeadLetter
		err := m.queue.DeadLetters(ctx, filter, deadLettersPage, func(d queue.DeadLetter) error {
			letters = append(letters, RetriedDeadLetter{
				ID: d.ID, Model: d.Model, Key: d.Key, Revision: d.Revision,
			})
			return nil
		})
		if err != nil {
			return err
		}
		for _, d := range letters {
			d.Err = m.queue.RetryDeadLetter(ctx, d.ID)
			switch {
			case errors.Is(d.Err, sql.ErrNoRows):
				continue // somebody else retried or purged it just now
			case d.Err != nil && !errors.Is(d.Err, queue.ErrSuperseded):
				return d.Err
			}
			if err := tell(d); err != nil {
				return err
			}
		}
		if len(letters) < deadLettersPage {
			return nil
		}
		filter.After = letters[deadLettersPage-1].ID
	}
}

// PurgeDeadLetters forgets dead letters for good and returns how many.
func (m *Master) PurgeDeadLetters(ctx context.Context, f DeadLetterFilter) (int64, error) {
	filter, err := f.in(ctx, m.queue.Database)
	if err != nil {
		return 0, err
	}
	return m.queue.PurgeDeadLetters(ctx, filter)
}
