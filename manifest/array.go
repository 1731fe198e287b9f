package manifest

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
)

// array is a list of PostgreSQL, as its text: {1,2}. On the wire it is a JSON list, as services
// with a slice and Django send it.
type array[E element] string

// element says how an element is written as JSON.
type element interface {
	encode(text string) json.RawMessage
}

type (
	numberElement   struct{}
	floatElement    struct{}
	textElement     struct{}
	truthElement    struct{}
	documentElement struct{}
)

func (numberElement) encode(text string) json.RawMessage { return rawOr(text) }
func (floatElement) encode(text string) json.RawMessage {
	if envelope.IsNonFinite([]byte(text)) {
		return json.RawMessage(text) // as PostgreSQL prints them and Python writes them
	}
	return rawOr(text)
}

func (documentElement) encode(text string) json.RawMessage { return rawOr(text) }
func (textElement) encode(text string) json.RawMessage     { return quote(text) }

func (truthElement) encode(text string) json.RawMessage {
	if text == "t" {
		return json.RawMessage("true")
	}
	return json.RawMessage("false")
}

// rawOr is a text that is JSON, or a string of it.
func rawOr(text string) json.RawMessage {
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return quote(text)
}

func quote(text string) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string always can be
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Scan reads the text.
func (a *array[E]) Scan(src any) error {
	switch src := src.(type) {
	case string:
		*a = array[E](src)
	case []byte:
		*a = array[E](src)
	default:
		return fmt.Errorf("want the text of an array, not a %T", src)
	}
	return nil
}

// Value writes the text.
func (a array[E]) Value() (driver.Value, error) { return string(a), nil }

// MarshalJSON writes what WireJSON does, with strings for what JSON has no number for.
func (a array[E]) MarshalJSON() ([]byte, error) {
	list, err := a.WireJSON()
	return envelope.Quoted(list), err
}

// WireJSON writes a list, of lists where there are several dimensions, with NaN as the wire has it.
// An array that does not begin at 1 says so in its text, which a list cannot.
func (a array[E]) WireJSON() ([]byte, error) {
	if !strings.HasPrefix(string(a), "{") {
		return quote(string(a)), nil
	}
	p := arrayText{text: string(a)}
	var e E
	list, err := p.list(e)
	if err == nil && p.at != len(p.text) {
		err = errArrayText
	}
	return list, err
}

// UnmarshalJSON reads a list, or PostgreSQL's text in a string.
func (a *array[E]) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		var text string
		err := json.Unmarshal(raw, &text)
		*a = array[E](text)
		return err
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return errors.New("want a list")
	}
	text, err := appendArray(nil, elements)
	*a = array[E](text)
	return err
}

func appendArray(b []byte, elements []json.RawMessage) ([]byte, error) {
	b = append(b, '{')
	for i, e := range elements {
		if i > 0 {
			b = append(b, ',')
		}
		text := string(e)
		switch e[0] {
		case '[':
			var inner []json.RawMessage
			err := json.Unmarshal(e, &inner)
			if err == nil {
				b, err = appendArray(b, inner)
			}
			if err != nil {
				return nil, err
			}
			continue
		case 'n':
			b = append(b, "NULL"...)
			continue
		case '"':
			if err := json.Unmarshal(e, &text); err != nil {
				return nil, err
			}
		}
		b = append(b, '"')
		b = append(b, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)...)
		b = append(b, '"')
	}
	return append(b, '}'), nil
}

var errArrayText = errors.New("not the text of an array")

// arrayText reads what PostgreSQL prints.
type arrayText struct {
	text string
	at   int
}

func (p *arrayText) next() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *arrayText) list(e element) (json.RawMessage, error) {
	p.at++ // {
	b := []byte{'['}
	if p.next() == '}' {
		p.at++
		return append(b, ']'), nil
	}
	for {
		var value json.RawMessage
		var err error
		switch p.next() {
		case '{':
			value, err = p.list(e)
		case '"':
			var text string
			text, err = p.quoted()
			value = e.encode(text)
		default:
			value = p.bare(e)
		}
		if err != nil {
			return nil, err
		}
		b = append(b, value...)
		c := p.next()
		p.at++
		switch c {
		case ',':
			b = append(b, ',')
		case '}':
			return append(b, ']'), nil
		default:
			return nil, errArrayText
		}
	}
}

func (p *arrayText) bare(e element) json.RawMessage {
	end := strings.IndexAny(p.text[p.at:], ",}")
	if end < 0 {
		end = len(p.text) - p.at
	}
	text := p.text[p.at : p.at+end]
	p.at += end
	if text == "NULL" {
		return json.RawMessage("null")
	}
	return e.encode(text)
}

func (p *arrayText) quoted() (string, error) {
	var b strings.Builder
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; c {
		case '"':
			p.at++
			return b.String(), nil
		case '\\':
			p.at++
			if p.at < len(p.text) {
				b.WriteByte(p.text[p.at])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", errArrayText
}
