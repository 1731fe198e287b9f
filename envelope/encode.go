package envelope

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// Encode returns the body: compact JSON, all nine keys, in the order of the wire. It refuses what a
// reader could stumble over, and names the keys: a message that is wrong is found here, in the
// service that made it, and not in every service that reads it.
//
// The primary key may be null, for a message of django-cqrs that is passed on (see Message.Key),
// but not empty.
func (m *Message) Encode() ([]byte, error) {
	data, dataErr := m.encodeData()
	previous, previousErr := m.encodePrevious()
	pk, pkErr := encodePK(m.PK)
	meta, metaErr := encodeObject(m.Meta, empty)
	if err := errors.Join(
		about("signal_type", m.Signal.check()),
		about("cqrs_id", CheckModel(m.Model)),
		about("instance_data", dataErr),
		about("previous_data", previousErr),
		about("instance_pk", pkErr),
		about("correlation_id", checkUTF8(m.CorrelationID)),
		about("retries", m.checkRetries()),
		about("expires", m.checkExpires()),
		about("meta", metaErr),
	); err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}

	const rest = 250 // the names, and what has no length below
	b := make([]byte, 0, rest+len(m.Model)+len(data)+len(previous)+len(pk)+len(m.CorrelationID)+
		len(meta))
	b = append(append(b, `{"signal_type":"`...), m.Signal...)
	b = append(append(b, `","cqrs_id":"`...), m.Model...)
	b = append(append(b, `","instance_data":`...), data...)
	b = append(append(b, `,"previous_data":`...), previous...)
	b = append(append(b, `,"instance_pk":`...), pk...)
	b = append(b, `,"correlation_id":`...)
	if m.CorrelationID == "" {
		b = append(b, null...)
	} else {
		b = appendQuoted(b, m.CorrelationID)
	}
	b = strconv.AppendInt(append(b, `,"retries":`...), int64(m.Retries), 10)
	b = append(b, `,"expires":`...)
	if m.Expires.IsZero() {
		b = append(b, null...)
	} else {
		// With T, as django-cqrs writes this one, and with a zone: without one its workers die.
		b = append(appendTime(append(b, '"'), m.Expires, 'T'), '"')
	}
	b = append(append(b, `,"meta":`...), meta...)
	return append(b, '}'), nil
}

func about(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}

// encodeData also holds the message to its word: revision gates compare the revision in the body
// with ledgers that were written from Message.Revision.
func (m *Message) encodeData() ([]byte, error) {
	p := parts{scanner: scanner{src: m.Data}}
	if err := p.checked(p.readData); err != nil {
		return nil, err
	}
	switch {
	case p.data[0] != '{':
		return nil, fmt.Errorf("want an object, got %s", kind(p.data))
	case p.revision == nil:
		return nil, errors.New("no cqrs_revision: use Stamp")
	}
	if revision := p.integerOf(dataRevision, p.revision); p.err != nil || revision != m.Revision {
		return nil, fmt.Errorf("cqrs_revision is %s, the message's is %d", p.revision, m.Revision)
	}
	data := p.clean(p.data)
	if len(m.NonFinite) == 0 {
		return data, nil
	}
	return m.NonFinite.in(data)
}

func (m *Message) encodePrevious() ([]byte, error) {
	previous, err := encodeObject(m.Previous, null)
	if err != nil || len(m.PreviousNonFinite) == 0 {
		return previous, err
	}
	if previous[0] != '{' {
		return nil, errors.New("PreviousNonFinite has fields, and Previous is null")
	}
	return m.PreviousNonFinite.in(previous)
}

var empty = []byte("{}")

// encodeObject returns raw compact, or none.
func encodeObject(raw json.RawMessage, none []byte) ([]byte, error) {
	if len(raw) == 0 {
		return none, nil
	}
	value, err := encodeValue(raw)
	switch {
	case err != nil:
		return nil, err
	case !given(value):
		return none, nil
	case value[0] != '{':
		return nil, fmt.Errorf("want an object, got %s", kind(value))
	}
	return value, nil
}

func encodePK(pk json.RawMessage) ([]byte, error) {
	value, err := encodeValue(pk)
	if err == nil && given(value) {
		_, err = KeyOf(value)
	}
	return value, err
}

func encodeValue(raw json.RawMessage) ([]byte, error) {
	s := scanner{src: raw}
	var value []byte
	err := s.checked(func() (err error) {
		value, err = s.value()
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.clean(value), nil
}

// checked reads src as one value and nothing else, in UTF-8, and in the JSON that everybody reads.
func (s *scanner) checked(read func() error) error {
	if len(s.src) == 0 {
		return errMissing
	}
	if !utf8.Valid(s.src) {
		return errors.New("not UTF-8")
	}
	s.skipSpace()
	err := read()
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	if s.nonFinite {
		return errors.New("not JSON: it has a bare NaN or Infinity, whose place is " +
			"Message.NonFinite")
	}
	return nil
}

func checkUTF8(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8")
	}
	return nil
}

func (m *Message) checkRetries() error {
	if m.Retries < 0 || m.Retries > math.MaxInt32 {
		return fmt.Errorf("want a count, got %d", m.Retries)
	}
	return nil
}

func (m *Message) checkExpires() error {
	if !m.Expires.IsZero() && !pythonYear(m.Expires) {
		return fmt.Errorf("year %d: Python's years are 1 to 9999", m.Expires.UTC().Year())
	}
	return nil
}
