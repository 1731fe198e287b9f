package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/transport"
)

// delivery is one message as it came, and what can be said of it before it is tried. It does not
// change any more once it is read: what a try makes of it is an attempt.
type delivery struct {
	ctx     context.Context // when it ends, whoever delivered waits no more
	from    deliverer
	place   int              // among those of from
	carrier *message.Message // nil where it came otherwise
	uuid    string
	body    []byte
	headers map[string]string
	strict  bool // its errors go to the caller: it neither waits nor becomes a dead letter

	message *envelope.Message // nil where the body cannot be read
	fields  map[string]json.RawMessage
	binding *binding // nil where the model is unknown
	work    any      // what the applier made of the message
	err     error    // why it cannot be applied, where that is known before trying
	key     db.Key
	keyed   bool // the ledger has a place for key
	foreign bool // it is meant for another queue

	past past
}

// past is what the tries before have left of a message.
type past struct {
	attempts int              // failed ones
	claimed  *applied.Applied // what waits as, where it was waiting
	awaits   *int64           // the revision that it waited for
	gapIn    time.Duration    // for how long yet
	since    time.Time        // when it began to wait, where it was waiting
	// busySince is when a message of Apply first met a lock.
	busySince time.Time
	// what its HandleFunc said, where it was called and the ledger could not move on
	call *reply
}

// reply is what the service's code said to a message.
type reply struct{ err error }

// again is the delivery for another try, with another past.
func (d *delivery) again(p past) *delivery {
	next := *d
	next.past = p
	return &next
}

// maxKey is how many characters a key may have: what the ledger's index takes on every database.
const maxKey = 512

// read completes what a broker delivered. What is wrong with it stands in err; it has to be kept
// with it.
func (e *engine) read(d delivery) *delivery {
	if err := e.checkSize(len(d.body)); err != nil {
		d.err = refused(TooLarge, err)
		return &d
	}
	m, err := envelope.Decode(d.body, d.headers)
	if err != nil {
		d.err = err
		return &d
	}
	d.message = m
	e.examine(&d)
	return &d
}

// checkSize refuses a body that is not to be looked into, or that could not be kept.
func (e *engine) checkSize(size int) error {
	if size > e.config.MaxPayload {
		return fmt.Errorf("the body has %d bytes, MaxPayload allows %d: raise it, and have the "+
			"row sent again (relay sync)",
			size, e.config.MaxPayload)
	}
	if e.room == nil {
		return nil
	}
	if most := e.room.mostText(); size > most {
		return fmt.Errorf("the body has %d bytes, the database takes %d: raise "+
			"max_allowed_packet, and have the row sent again (relay sync)", size, most)
	}
	return nil
}

// examine checks and prepares what can be read.
func (e *engine) examine(d *delivery) {
	m := d.message
	if d.binding = e.models[m.Model]; d.binding != nil {
		d.binding.spellKey(m)
	}
	direct := m.Queue != "" || m.Headers[transport.DirectKey] != ""
	delete(m.Headers, transport.DirectKey)
	if d.keyed = d.binding != nil && isKey(m.Key); d.keyed {
		d.key = db.Key{Model: m.Model, Key: m.Key}
	}
	switch {
	case m.Queue != "" && m.Queue != e.config.Queue:
		d.foreign = true
	case d.binding != nil && d.binding.direct && !direct && !d.strict:
		d.foreign = true
	case d.binding == nil:
		d.err = refused(UnknownModel,
			fmt.Errorf("model %q is not registered: call replica.Register or replica.Handle",
				m.Model))
	case m.Key == "" && !hasPK(m):
		d.err = Permanent(errors.New("instance_pk is null: the master sent the message before the " +
			"row had a key; have the row sent again (on a Django master cqrs_sync, or save the " +
			"instance)"))
	case m.Key == "" || strings.IndexByte(m.Key, 0) >= 0:
		d.err = Permanent(fmt.Errorf("key %q: a ledger row needs text without NUL", m.Key))
	case !d.keyed:
		d.err = Permanent(fmt.Errorf("key %.40q… has more than %d characters", m.Key, maxKey))
	case d.contradictsItself():
	case e.isExpired(m):
		d.err = refused(Expired, fmt.Errorf("expired at %s", envelope.FormatTime(m.Expires)))
	default:
		d.err = d.prepare()
	}
}

// isKey says that the ledger takes a text for a key.
func isKey(key string) bool {
	return key != "" && strings.IndexByte(key, 0) < 0 && utf8.RuneCountInString(key) <= maxKey
}

// contradictsItself says that the message cannot be believed: then it has no place in the ledger,
// whatever it says.
func (d *delivery) contradictsItself() bool {
	err := d.binding.checkClaims(d.message)
	if err == nil && d.message.Signal == envelope.Delete && hasPK(d.message) {
		if err = d.open(); err == nil {
			err = d.binding.checkDeleted(d.message, d.fields)
		}
	}
	if err != nil {
		d.key, d.keyed, d.err = db.Key{}, false, Permanent(d.about(err))
	}
	return err != nil
}

// open parses the instance, once.
func (d *delivery) open() (err error) {
	if d.fields == nil {
		d.fields, err = fieldsOf(d.message)
	}
	return err
}

func (d *delivery) prepare() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil {
			err = Permanent(d.about(err))
		}
	}()
	if err := d.open(); err != nil {
		return err
	}
	if err := d.binding.checkRequired(d.message, d.fields); err != nil {
		return err
	}
	d.work, err = d.binding.applier.prepare(d.message, d.fields)
	return err
}

// about names the message that an error is about.
func (d *delivery) about(err error) error {
	m := d.message
	return fmt.Errorf("apply %s of model %q key %q revision %d: %w", m.Signal, m.Model, m.Key,
		m.Revision, err)
}

// overdue says that a message has waited long enough for the one before it.
func (d *delivery) overdue() bool { return d.past.awaits != nil && d.past.gapIn <= 0 }

// state is what the ledger will hold when the message is applied.
func (d *delivery) state() applied.Applied {
	return settled(applied.Applied{Key: d.key, Revision: applied.NeverApplied}, d.message)
}

// attrs are what a log line says about a message: never its data.
func (d *delivery) attrs(more ...any) []any {
	if d.message == nil {
		attrs := []any{"uuid", d.uuid}
		if seen := envelope.Peek(d.body, d.headers); seen.Model != "" || seen.Key != "" {
			attrs = append(attrs, "model", seen.Model, "key", seen.Key)
		}
		return append(attrs, more...)
	}
	return append([]any{"model", d.message.Model, "key", d.message.Key, "revision",
		d.message.Revision}, more...)
}
