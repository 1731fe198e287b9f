package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// message interprets the parts, or returns what is wrong with the first that cannot be.
func (p *parts) message() (*Message, error) {
	m := &Message{
		Signal:        p.signalOf("signal_type", p.signal),
		Model:         p.modelOf("cqrs_id", p.model),
		Data:          p.objectOf("instance_data", p.data),
		Revision:      p.integerOf("instance_data."+dataRevision, p.revision),
		Updated:       p.timeOf("instance_data."+dataUpdated, p.updated),
		PK:            p.clean(p.pk),
		Key:           p.keyOf("instance_pk", p.pk),
		CorrelationID: p.correlationID(),
	}
	if len(p.odd) > 0 {
		m.NonFinite = p.odd
	}
	if given(p.previous) {
		m.Previous = p.objectOf("previous_data", p.previous)
	}
	if len(p.previousOdd) > 0 {
		m.PreviousNonFinite = p.previousOdd
	}
	if given(p.retries) {
		m.Retries = p.retriesOf("retries", p.retries)
	}
	m.Expires = p.timeOf("expires", p.expires)
	if given(p.meta) {
		m.Meta = p.objectOf("meta", p.meta)
	}
	if string(m.Meta) == "{}" {
		m.Meta = nil
	}
	return m, p.err
}

var errMissing = errors.New("missing")

// given says whether a part that may be missing or null is neither.
func given(value []byte) bool { return value != nil && !bytes.Equal(value, null) }

func (p *parts) fail(key string, err error) {
	if p.err == nil {
		p.err = &DecodeError{Key: key, Err: err}
	}
}

// is fails unless value is there and of the kind that starts with first.
func (p *parts) is(key string, value []byte, first byte, want string) bool {
	switch {
	case value == nil:
		p.fail(key, errMissing)
	case value[0] != first:
		p.fail(key, fmt.Errorf("want %s, got %s", want, kind(value)))
	default:
		return true
	}
	return false
}

func (p *parts) textOf(key string, value []byte) string {
	if !p.is(key, value, '"', "a string") {
		return ""
	}
	return unquote(value)
}

func (p *parts) objectOf(key string, value []byte) json.RawMessage {
	if !p.is(key, value, '{', "an object") {
		return nil
	}
	return p.clean(value)
}

func (p *parts) signalOf(key string, value []byte) Signal {
	s := Signal(p.textOf(key, value))
	if err := s.check(); err != nil {
		p.fail(key, err)
	}
	return s
}

func (p *parts) modelOf(key string, value []byte) string {
	id := p.textOf(key, value)
	if err := CheckModel(id); err != nil {
		p.fail(key, err)
	}
	return id
}

func (p *parts) integerOf(key string, value []byte) int64 {
	if value == nil {
		p.fail(key, errMissing)
		return 0
	}
	if got := kind(value); got != "a number" {
		p.fail(key, fmt.Errorf("want an integer, got %s", got))
		return 0
	}
	n, err := parseInt(string(value))
	if err != nil {
		p.fail(key, err)
	}
	return n
}

func (p *parts) retriesOf(key string, value []byte) int {
	n := p.integerOf(key, value)
	if n < 0 || n > math.MaxInt32 {
		p.fail(key, fmt.Errorf("want a count, got %d", n))
	}
	return int(n)
}

// timeOf is zero for a time that is missing or null.
func (p *parts) timeOf(key string, value []byte) time.Time {
	if !given(value) || !p.is(key, value, '"', "a time") {
		return time.Time{}
	}
	t, err := ParseTime(unquote(value))
	if err != nil {
		p.fail(key, err)
	}
	return t
}

// keyOf is empty for a primary key that is null: django-cqrs dead-letters and sends again what had
// none.
func (p *parts) keyOf(key string, value []byte) string {
	switch {
	case value == nil:
		p.fail(key, errMissing)
		return ""
	case !given(value):
		return ""
	}
	text, err := KeyOf(value)
	if err != nil {
		p.fail(key, err)
	}
	return text
}

// correlationID takes what is not a string as its JSON text: it is there to be compared and logged.
func (p *parts) correlationID() string {
	switch {
	case !given(p.correlation):
		return ""
	case p.correlation[0] == '"':
		return unquote(p.correlation)
	default:
		return string(p.clean(p.correlation))
	}
}
