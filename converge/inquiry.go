package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// inquiry asks a replica what it has of one key. It stands in the queue behind all that was sent
// before, so the answer knows of it.
type inquiry struct {
	head

	ID    string `json:"id"`
	Model string `json:"model"`
	Key   string `json:"key"`
}

// entry is the answer to an inquiry: what the replica has, or why it does not know.
type entry struct {
	head

	ID    string         `json:"id"`
	Model string         `json:"model"`
	Entry mirrored.Entry `json:"entry"`
	Error string         `json:"error,omitempty"`
}

// inquireEvery is how often it is looked whether somebody asks about a key.
const inquireEvery = time.Second

// inquire sends the questions that wait in the registry. Each goes once: who gets no answer asks
// again.
func (a *Answerer) inquire(ctx context.Context) error {
	all, err := a.registry.UnsentInquiries(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range all {
		if !slices.Contains(a.models, i.Model) {
			continue // another answerer's
		}
		mine, err := a.registry.TakeInquiry(ctx, i.ID)
		if err != nil || !mine {
			errs = append(errs, err)
			continue
		}
		body, err := json.Marshal(inquiry{
			head: head{Version: version, Kind: kindInquiry}, ID: i.ID, Model: i.Model, Key: i.Key,
		})
		if err == nil {
			err = a.tell(ctx, i.Queue, i.Model, kindInquiry, body)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hearInquiry answers with what is here of a key.
func (r *Reporter) hearInquiry(ctx context.Context, body []byte) error {
	var i inquiry
	if err := json.Unmarshal(body, &i); err != nil {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	if err := envelope.CheckModel(i.Model); err != nil {
		return err
	}
	out := entry{
		head: head{Version: version, Kind: kindEntry, Queue: r.queue, Instance: r.config.Instance},
		ID:   i.ID, Model: i.Model,
	}
	var err error
	if _, err = r.replica.Model(i.Model); err == nil {
		out.Entry, err = r.replica.Entry(ctx, i.Model, i.Key)
	}
	if err != nil {
		out.Error = "it could not be read: see the log of the replica"
		r.log.Warn("cannot answer what is here of a key", "model", i.Model, "error", err)
	}
	answer, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("write what is here of a key: %w", err)
	}
	_, err = r.say(ctx, kindEntry, i.Model, answer)
	return err
}

// hearEntry writes an answer down, if it was asked for.
func (a *Answerer) hearEntry(ctx context.Context, body []byte) error {
	var e entry
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	// read and written once more: so nothing is kept but what is known
	text, err := json.Marshal(struct {
		mirrored.Entry

		Error string `json:"error,omitempty"`
	}{e.Entry, e.Error})
	if err != nil {
		return fmt.Errorf("write an answer down: %w", err)
	}
	return a.registry.AnswerInquiry(ctx, e.ID, e.Queue, text)
}
