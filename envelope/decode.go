package envelope

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// DecodeError says why a message cannot be read. Reading it again will not help: park it whole.
type DecodeError struct {
	// Key is the key at fault: "instance_pk", "instance_data.cqrs_revision", a metadata key such as
	// "cqrs_after", or "body" when there is no object to look into.
	Key string
	Err error
}

func (e *DecodeError) Error() string {
	return "unreadable message: " + e.Key + ": " + e.Err.Error()
}

// Unwrap returns the reason without the key.
func (e *DecodeError) Unwrap() error { return e.Err }

// Decode reads a message. The error is always a *DecodeError.
//
// Key order is free, unknown keys are ignored, of a key that stands twice the last one counts.
// signal_type, cqrs_id, instance_data, its cqrs_revision and instance_pk are required; everything
// else may be missing or null, and instance_pk may be null (see Message.Key).
//
// The message keeps parts of body: do not change body afterwards.
func Decode(body []byte, metadata map[string]string) (*Message, error) {
	var p parts
	if err := p.read(body); err != nil {
		return nil, &DecodeError{Key: "body", Err: err}
	}
	m, err := p.message()
	if err == nil {
		err = m.readMetadata(metadata)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// parts is a body taken apart: the text of each value, nil where the key is missing.
type parts struct {
	scanner
	signal, model, data, previous, pk, correlation, retries, expires, meta []byte

	// Of data:
	revision, updated []byte
	odd               NonFinite

	previousOdd NonFinite // of previous

	err error // the first part that message found wrong
}

func (p *parts) read(body []byte) error {
	if len(body) == 0 {
		return errors.New("empty")
	}
	if !utf8.Valid(body) {
		return errors.New("not UTF-8")
	}
	p.src = body
	p.skipSpace()
	var value []byte
	var err error
	if p.peek() == '{' {
		err = p.object(p.visitBody)
	} else {
		value, err = p.value()
	}
	if err == nil {
		err = p.end()
	}
	switch {
	case err != nil:
		return fmt.Errorf("not JSON: %w", err)
	case value != nil:
		return fmt.Errorf("want an object, got %s", kind(value))
	}
	return nil
}

func (p *parts) visitBody(name []byte) error {
	var into *[]byte
	switch string(memberName(name)) {
	case "signal_type":
		into = &p.signal
	case "cqrs_id":
		into = &p.model
	case "instance_data":
		return p.readData()
	case "previous_data":
		return p.readPrevious()
	case "instance_pk":
		into = &p.pk
	case "correlation_id":
		into = &p.correlation
	case "retries":
		into = &p.retries
	case "expires":
		into = &p.expires
	case "meta":
		into = &p.meta
	default:
		return p.skipValue()
	}
	value, err := p.finiteValue()
	*into = value
	return err
}

// finiteValue reads a value, taking a bare NaN or infinity for null.
func (p *parts) finiteValue() ([]byte, error) {
	value, err := p.value()
	if IsNonFinite(value) {
		value = null
	}
	return value, err
}

func (p *parts) readPrevious() (err error) {
	p.previousOdd = nil // of an earlier one, which counts no longer
	if p.peek() != '{' {
		p.previous, err = p.finiteValue()
		return err
	}
	start := p.pos
	err = p.object(func(name []byte) error {
		_, tokens, err := p.valueWithTokens()
		note(&p.previousOdd, name, tokens)
		return err
	})
	p.previous = p.src[start:p.pos:p.pos]
	return err
}

// note keeps what stands under a name, or forgets what stood there before.
func note(odd *NonFinite, name, tokens []byte) {
	switch {
	case tokens == nil && *odd == nil:
	case tokens == nil:
		delete(*odd, unquote(name))
	case *odd == nil:
		*odd = NonFinite{unquote(name): tokens}
	default:
		(*odd)[unquote(name)] = tokens
	}
}

func (p *parts) readData() (err error) {
	// of an earlier instance_data, which counts no longer
	p.revision, p.updated, p.odd = nil, nil, nil
	start := p.pos
	if p.peek() == '{' {
		err = p.object(p.visitData)
	} else {
		err = p.skipValue()
	}
	p.data = p.src[start:p.pos:p.pos]
	return err
}

func (p *parts) visitData(name []byte) error {
	value, tokens, err := p.valueWithTokens()
	note(&p.odd, name, tokens)
	if IsNonFinite(value) {
		value = null
	}
	switch string(memberName(name)) {
	case dataRevision:
		p.revision = value
	case dataUpdated:
		p.updated = value
	}
	return err
}
