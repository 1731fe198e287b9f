package converge

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/transport"
)

// hearResync sends the states that a replica asked for, to it alone.
//
// They do not go through the outbox: the replica's gate decides by revision whether a state is
// news, so it may come before or behind messages of its key.
func (a *Answerer) hearResync(ctx context.Context, body []byte) error {
	r, err := readResync(body)
	if err != nil {
		return err
	}
	a.counts.requests.Add(1)
	if len(a.own([]string{r.Model})) == 0 {
		return fmt.Errorf("a request for the model %.40q, which this master does not have", r.Model)
	}
	n := a.limit.take(r.Queue, len(r.Keys))
	a.counts.limited.Add(int64(len(r.Keys) - n))
	asked := r.Keys[:n]
	keys := make([]string, len(asked))
	for i, k := range asked {
		keys[i] = k.Key
	}
	states, err := a.box.States(ctx, r.Model, keys)
	if err != nil {
		return err
	}
	incarnation, err := a.outbox.Incarnation(ctx)
	if err != nil {
		return err
	}
	var batch []transport.Outgoing
	for i, state := range states {
		if state.Revision <= asked[i].Above || state.Data == nil && !state.Deleted {
			continue
		}
		out, err := stateMessage(state, r.Model, r.Queue, incarnation.ID)
		if err != nil {
			return err
		}
		batch = append(batch, out)
	}
	a.log.Debug("states are sent again",
		"queue", r.Queue, "model", r.Model, "cause", r.Cause, "keys", len(batch))
	return a.sendStates(ctx, batch)
}

func (a *Answerer) sendStates(ctx context.Context, batch []transport.Outgoing) error {
	errs := a.publisher.PublishBatch(ctx, batch)
	for _, err := range errs {
		if err == nil {
			a.counts.sent.Add(1)
		}
	}
	return errors.Join(errs...)
}

// stateMessage is a state for one queue: a SYNC, or of a key that is deleted its DELETE once more.
func stateMessage(
	s boxed.State, model, queue, incarnation string,
) (out transport.Outgoing, err error) {
	e := envelope.Message{
		Signal: envelope.Sync, Model: model, PK: s.PK, Revision: s.Revision, Updated: s.Updated,
		Key: s.Key, Queue: queue, Incarnation: incarnation,
	}
	data := s.Data
	if s.Deleted {
		e.Signal, data = envelope.Delete, envelope.DeleteData(s.PK)
	}
	shelved, err := envelope.Shelve(data)
	if err == nil {
		data, e.NonFinite, err = envelope.Unshelve(shelved)
	}
	if err != nil {
		return out, fmt.Errorf("write the state of %s %s: %w", model, s.Key, err)
	}
	e.Data = envelope.Stamp(data, s.Revision, s.Updated)
	body, err := e.Encode()
	if err != nil {
		return out, fmt.Errorf("write the state of %s %s: %w", model, s.Key, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return out, fmt.Errorf("draw a message id: %w", err)
	}
	m := message.NewMessage(id.String(), body)
	m.Metadata = e.Metadata()
	return transport.Outgoing{Topic: transport.DirectTopic(queue, model), Message: m}, nil
}
