package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/transport"
)

// item is one message from its delivery to its end.
type item struct {
	ctx      context.Context // when it ends, whoever delivered waits no more
	from     deliverer
	delivery *message.Message // nil where it came otherwise
	body     []byte
	headers  map[string]string
	uuid     string

	message *envelope.Message // nil where the body cannot be read
	binding *binding          // nil where the model is unknown
	work    any               // what the binding's prepare made of the message
	err     error             // why it cannot be applied, where that is known before trying

	attempts  int            // failed ones
	claimed   *store.Applied // what waits as, where it was waiting
	strict    bool           // its errors go to the caller: it neither waits nor is parked
	keyless   bool           // it belongs to no key, whatever it says
	foreign   bool           // it is meant for another queue
	overtook  bool           // it is stale though it is later than what the ledger has
	awaits    *int64         // the revision that it waits for, or waited for
	gapIn     time.Duration  // for how long yet
	busySince time.Time      // when a message of Apply first met a lock
	called    bool           // the HandleFunc was called, and callErr is its answer
	callErr   error

	// What became of it, once from is told.
	outcome Outcome
	result  error
}

// deliverer submits items and is told what became of them; of a transaction's together, so that their acks cost little.
type deliverer interface{ ended(items []*item) }

// countdown is a deliverer that waits for all its items.
type countdown struct{ sync.WaitGroup }

func (c *countdown) ended(items []*item) { c.Add(-len(items)) }

// maxKey is how many characters a key may have: what the ledger's index takes on every database.
const maxKey = 512

// read makes an item of what a broker delivered. What is wrong with it stands in err; it has to be kept with it.
func (e *engine) read(ctx context.Context, uuid string, body []byte, headers map[string]string) *item {
	it := &item{ctx: ctx, uuid: uuid, body: body, headers: headers}
	if err := e.checkSize(len(body)); err != nil {
		it.err = refused(TooLarge, err)
		return it
	}
	it.message, it.err = envelope.Decode(body, headers)
	if it.err != nil {
		it.message = nil
		return it
	}
	e.examine(it)
	return it
}

// checkSize refuses a body that is not to be looked into, or that could not be kept.
func (e *engine) checkSize(size int) error {
	if size > e.config.MaxPayload {
		return fmt.Errorf("the body has %d bytes, MaxPayload allows %d: raise it, and have the row sent again (relay sync)",
			size, e.config.MaxPayload)
	}
	if e.room == nil {
		return nil
	}
	if most := e.room.mostText(); size > most {
		return fmt.Errorf("the body has %d bytes, the database takes %d: raise max_allowed_packet, and have the row sent again "+
			"(relay sync)", size, most)
	}
	return nil
}

// examine checks and prepares what can be read.
func (e *engine) examine(it *item) {
	m := it.message
	if it.binding = e.models[m.Model]; it.binding != nil {
		it.binding.spellKey(m)
	}
	direct := m.Queue != "" || m.Headers[transport.DirectKey] != ""
	delete(m.Headers, transport.DirectKey)
	switch {
	case m.Queue != "" && m.Queue != e.config.Queue:
		it.foreign = true
	case it.binding != nil && it.binding.direct && !direct && !it.strict:
		it.foreign = true
	case it.binding == nil:
		it.err = refused(UnknownModel, fmt.Errorf("model %q is not registered: call replica.Register or replica.Handle", m.Model))
	case m.Key == "" && !hasPK(m):
		it.err = Permanent(errors.New("instance_pk is null: the master sent the message before the row had a key; " +
			"have the row sent again (on a Django master cqrs_sync, or save the instance)"))
	case m.Key == "" || strings.IndexByte(m.Key, 0) >= 0:
		it.err = Permanent(fmt.Errorf("key %q: a ledger row needs text without NUL", m.Key))
	case utf8.RuneCountInString(m.Key) > maxKey:
		it.err = Permanent(fmt.Errorf("key %.40q… has more than %d characters", m.Key, maxKey))
	case it.contradictsItself():
	case e.isExpired(m):
		it.err = refused(Expired, fmt.Errorf("expired at %s", envelope.FormatTime(m.Expires)))
	default:
		it.err = it.prepare()
	}
}

// contradictsItself says that the message cannot be believed: then it has no place in the ledger, whatever it says.
func (it *item) contradictsItself() bool {
	if err := it.binding.checkClaims(it.message); err != nil {
		it.keyless, it.err = true, Permanent(it.about(err))
	}
	return it.keyless
}

func (it *item) prepare() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil {
			err = Permanent(it.about(err))
		}
	}()
	if err := it.binding.checkRequired(it.message); err != nil {
		return err
	}
	it.work, err = it.binding.applier.prepare(it.message)
	return err
}

// about names the message that an error is about.
func (it *item) about(err error) error {
	m := it.message
	return fmt.Errorf("apply %s of model %q key %q revision %d: %w", m.Signal, m.Model, m.Key, m.Revision, err)
}

// key is the key of the message; ok is false where the ledger has no place for it.
func (it *item) key() (key store.Key, ok bool) {
	if it.message == nil || it.binding == nil || it.keyless {
		return store.Key{}, false
	}
	key = store.Key{Model: it.message.Model, Key: it.message.Key}
	ok = key.Key != "" && strings.IndexByte(key.Key, 0) < 0 && utf8.RuneCountInString(key.Key) <= maxKey
	return key, ok
}

// submit takes items in. Each is ended in time, by its done.
func (e *engine) submit(items ...*item) {
	ours := items[:0]
	for _, it := range items {
		if it.foreign {
			e.end(it, Ignored, nil)
		} else {
			ours = append(ours, it)
		}
	}
	e.inbox.add(ours...)
}

// end settles an item, once.
func (e *engine) end(it *item, outcome Outcome, err error) {
	it.outcome, it.result = outcome, err
	e.endAll([]*item{it})
}

// endAll settles items whose outcome is known, once.
func (e *engine) endAll(items []*item) {
	byDeliverer := make(map[deliverer][]*item, 1)
	for _, it := range items {
		e.count(it.outcome)
		byDeliverer[it.from] = append(byDeliverer[it.from], it)
	}
	for from, items := range byDeliverer {
		from.ended(items)
	}
}

// returnPause is how long a message that could not even be kept stays here before the broker has it back, and at once
// delivers it again.
const returnPause = 2 * time.Second

func (e *engine) endLater(it *item) {
	timer := time.NewTimer(returnPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-it.ctx.Done():
	}
	e.end(it, it.outcome, it.result)
}

// letter is the item as a dead letter.
func (it *item) letter(queue string, reason error) store.ReplicaDeadLetter {
	letter := store.ReplicaDeadLetter{
		Queue: queue, Body: it.body, Metadata: maps.Clone(it.headers), Error: reason.Error(),
	}
	if m := it.message; m != nil {
		letter.Model, letter.Key, letter.Revision = m.Model, m.Key, &m.Revision
	} else { // what can be read of it, and what whoever sent it says
		seen := envelope.Peek(it.body, it.headers)
		letter.Model, letter.Key, letter.Revision = seen.Model, seen.Key, seen.Revision
	}
	return letter
}

var errStopped = errors.New("stopped before the message was applied")
