package envelope

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// Peeked is what can be told of a message without reading all of it, each part as Decode would read
// it, or empty.
type Peeked struct {
	Model, Key string
	// Revision is nil where neither the body nor the metadata has one.
	Revision *int64
	// Retries is nil where the body has none.
	Retries *int64
	// Object says that the body is one whole JSON object, in UTF-8, whatever is in it.
	Object bool
}

// Peek tells of a message what can be told, also of one that Decode refuses: one part may be
// broken, or the rest missing. What a body says last before it breaks off is not believed, because
// it may go on: 12 may be the beginning of 123.
func Peek(body []byte, metadata map[string]string) Peeked {
	p := parts{scanner: scanner{src: bytes.TrimPrefix(body, []byte("\ufeff"))}}
	p.skipSpace()
	err := p.object(p.peekBody)
	if err == nil {
		err = p.end()
	}
	peeked := Peeked{Object: err == nil && utf8.Valid(body) && len(p.src) == len(body)}
	if len(p.model) > 0 && p.model[0] == '"' {
		if model := unquote(p.model); CheckModel(model) == nil {
			peeked.Model = model
		}
	}
	if metadata[metaKey] != "" {
		peeked.Key = metadata[metaKey]
	} else if given(p.pk) && utf8.Valid(p.pk) {
		peeked.Key, _ = KeyOf(p.pk) // empty where it is none
	}
	if peeked.Revision = peekInteger(p.revision); peeked.Revision == nil {
		if n, err := strconv.ParseInt(metadata[metaRevision], 10, 64); err == nil {
			peeked.Revision = &n
		}
	}
	peeked.Retries = peekInteger(p.retries)
	return peeked
}

func peekInteger(value []byte) *int64 {
	if len(value) == 0 || kind(value) != "a number" {
		return nil
	}
	if n, err := parseInt(string(value)); err == nil {
		return &n
	}
	return nil
}

func (p *parts) peekBody(name []byte) error {
	switch string(memberName(name)) {
	case "cqrs_id":
		return p.peekValue(&p.model)
	case "instance_pk":
		return p.peekValue(&p.pk)
	case "retries":
		return p.peekValue(&p.retries)
	case "instance_data":
		p.revision = nil // of an earlier one, which counts no longer
		if p.peek() == '{' {
			return p.object(p.peekData)
		}
	}
	return p.skipValue()
}

func (p *parts) peekData(name []byte) error {
	if string(memberName(name)) == dataRevision {
		return p.peekValue(&p.revision)
	}
	return p.skipValue()
}

// peekValue reads a value that something follows which ends it.
func (p *parts) peekValue(into *[]byte) error {
	value, err := p.value()
	if err != nil {
		return err
	}
	p.skipSpace()
	if c := p.peek(); c == ',' || c == '}' {
		*into = value
	}
	return nil
}
