package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/registry"
)

// Key is where one key is on its way: what the master has, what is unsent, and what replicas have.
// Its names in JSON are never changed, only added.
type Key struct {
	Model string `json:"model"`
	Key   string `json:"key"`
	// At is when the master was read, by the clock of its database.
	At time.Time `json:"at"`
	// Known says that the master's ledger has the key, in Revision, of Updated; Deleted that it was
	// deleted in it.
	Known    bool      `json:"known"`
	Revision int64     `json:"revision"`
	Deleted  bool      `json:"deleted"`
	Updated  time.Time `json:"updated,omitzero"`
	// Unsent are up to 50 messages that no broker has confirmed, oldest first.
	Unsent []UnsentMessage `json:"unsent"`
	// Retry is that the oldest of them failed and waits for another attempt; nil if not.
	Retry *KeyRetry `json:"retry,omitempty"`
	// DeadLetters are up to 50 messages of the key that were given up at the master.
	DeadLetters []DeadLetter `json:"dead_letters"`
	// Replicas are what those that take the model have of it.
	Replicas []KeyAtReplica `json:"replicas"`
}

// UnsentMessage is a message that no broker has confirmed.
type UnsentMessage struct {
	Revision int64  `json:"revision"`
	Signal   string `json:"signal"`
	// Queue is the one replica that it is for, empty for all.
	Queue   string    `json:"queue,omitempty"`
	Created time.Time `json:"created"`
}

// KeyRetry is that a key waits for another attempt.
type KeyRetry struct {
	Attempts int       `json:"attempts"`
	Error    string    `json:"error"`
	Since    time.Time `json:"since"`
	Next     time.Time `json:"next"`
}

// KeyAtReplica is what a replica has of a key.
type KeyAtReplica struct {
	Queue string `json:"queue"`
	// Answered is when its answer came, nil where none did: then Silence says why, and the rest is
	// not known.
	Answered *time.Time `json:"answered"`
	Silence  string     `json:"silence,omitempty"`
	// Known says that its ledger has the key, in Revision; Deleted that it was deleted in it.
	// Applied is when the replica wrote that, by the clock of its database.
	Known    bool       `json:"known"`
	Revision int64      `json:"revision"`
	Deleted  bool       `json:"deleted"`
	Applied  *time.Time `json:"applied"`
	// Stuck are messages of the key that it did not apply.
	Stuck []StuckAtReplica `json:"stuck"`
	// Through is up to when all that the master had committed is with it, and EqualThrough up to
	// when it was proven equal; nil where that is not known. That is what it reported last.
	Through      *time.Time `json:"through"`
	EqualThrough *time.Time `json:"equal_through"`
}

// StuckAtReplica is a message that a replica did not apply: it waits, or was given up.
type StuckAtReplica struct {
	Dead     bool      `json:"dead"`
	Revision int64     `json:"revision"`
	Error    string    `json:"error"`
	Since    time.Time `json:"since"`
	// Body is the message, nil where it is no JSON or too large. It is in no JSON of Key: what it
	// holds may be secret.
	Body []byte `json:"-"`
}

// keyRead bounds how many messages of a key are read.
const keyRead = 50

// Key looks for one key, as ledgers spell it, and asks the replicas that take its model, for whose
// answers it waits at most so long. A running relay with models sends the questions, behind all
// that it sent before. wait may be 0: then nobody is asked.
func (m *Master) Key(
	ctx context.Context, model, key string, wait time.Duration,
) (*Key, error) {
	asked := map[string]string{}
	replicas, err := m.replicasOf(ctx, model)
	if err == nil && wait > 0 {
		asked, err = m.registry.Inquire(ctx, heard(replicas), model, key)
	}
	if err != nil {
		return nil, err
	}
	k, err := m.keyHere(ctx, model, key)
	if err != nil {
		return nil, err
	}
	answers, err := m.answers(ctx, asked, wait)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		at := KeyAtReplica{Queue: r.Queue, Stuck: []StuckAtReplica{}, Through: r.Through}
		for _, rm := range r.Models {
			if rm.Model == model {
				at.EqualThrough = rm.EqualThrough
			}
		}
		at.take(r, answers[asked[r.Queue]], wait)
		k.Replicas = append(k.Replicas, at)
	}
	return k, nil
}

func (m *Master) replicasOf(ctx context.Context, model string) ([]KnownReplica, error) {
	all, err := m.Replicas(ctx)
	return slices.DeleteFunc(all, func(r KnownReplica) bool {
		return !slices.ContainsFunc(r.Models, func(rm ReplicaModel) bool { return rm.Model == model })
	}), err
}

// heard are the queues of replicas that are not silent.
func heard(replicas []KnownReplica) (queues []string) {
	for _, r := range replicas {
		if !r.Silent {
			queues = append(queues, r.Queue)
		}
	}
	return queues
}

// keyHere is what the master has.
func (m *Master) keyHere(ctx context.Context, model, key string) (*Key, error) {
	k := &Key{
		Model: model, Key: key, Unsent: []UnsentMessage{}, DeadLetters: []DeadLetter{},
		Replicas: []KeyAtReplica{},
	}
	name := queue.Key{Model: model, Key: key}
	var err error
	if k.At, err = m.Now(ctx); err != nil {
		return nil, err
	}
	entry, err := m.queue.KeyEntry(ctx, name)
	if err != nil {
		return nil, err
	}
	if entry != nil {
		k.Known, k.Revision, k.Deleted, k.Updated = true, entry.Revision, entry.Deleted, entry.Updated
	}
	unsent, err := m.queue.UnsentOf(ctx, name, keyRead)
	if err != nil {
		return nil, err
	}
	for _, u := range unsent {
		k.Unsent = append(k.Unsent, UnsentMessage(u))
	}
	retry, err := m.queue.Retry(ctx, name)
	if err != nil {
		return nil, err
	}
	if retry != nil {
		k.Retry = new(KeyRetry(*retry))
	}
	filter := DeadLetterFilter{Model: model, Key: key}
	err = m.DeadLetters(ctx, filter, keyRead, func(d DeadLetter) error {
		d.DeadLetterContent = nil
		k.DeadLetters = append(k.DeadLetters, d)
		return nil
	})
	return k, err
}

// answers waits for the answers to questions, and returns what there is in the end.
func (m *Master) answers(
	ctx context.Context, asked map[string]string, wait time.Duration,
) (map[string]registry.Inquiry, error) {
	ids := make([]string, 0, len(asked))
	for _, id := range asked {
		ids = append(ids, id)
	}
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(verifyPoll)
	defer tick.Stop()
	for {
		all, err := m.registry.Inquiries(ctx, ids)
		if err != nil {
			return nil, err
		}
		answers, open := make(map[string]registry.Inquiry, len(all)), false
		for _, i := range all {
			answers[i.ID] = i
			open = open || i.Answered.IsZero()
		}
		if !open || time.Now().After(deadline) {
			return answers, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// take notes what a replica answered, or why there is nothing of it.
func (at *KeyAtReplica) take(r KnownReplica, i registry.Inquiry, wait time.Duration) {
	var said struct {
		Known    bool      `json:"known"`
		Revision int64     `json:"revision"`
		Deleted  bool      `json:"deleted"`
		Applied  time.Time `json:"applied"`
		Stuck    []struct {
			StuckAtReplica

			Body json.RawMessage `json:"body"`
		} `json:"stuck"`
		Error string `json:"error"`
	}
	switch {
	case r.Silent:
		at.Silence = "it is silent since " + r.Reported.Format(time.RFC3339)
	case wait <= 0:
		at.Silence = "it was not asked"
	case i.Sent.IsZero():
		at.Silence = "nobody asked it: does a relay run with --config, and not with --silent, or an " +
			"application that answers replicas?"
	case i.Answered.IsZero():
		at.Silence = fmt.Sprintf("no answer within %s: it is late, or its version is older", wait)
	case json.Unmarshal(i.Answer, &said) != nil:
		at.Silence = "its answer cannot be read: is it of another version?"
	case said.Error != "":
		at.Silence = said.Error
	default:
		at.Answered, at.Applied = timeOrNil(i.Answered), timeOrNil(said.Applied)
		at.Known, at.Revision, at.Deleted = said.Known, said.Revision, said.Deleted
		for _, s := range said.Stuck {
			s.StuckAtReplica.Body = s.Body
			at.Stuck = append(at.Stuck, s.StuckAtReplica)
		}
	}
}
