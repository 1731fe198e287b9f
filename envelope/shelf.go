package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Databases refuse NaN and the infinities in their JSON columns as JSON does. An object that is
// kept in one until it is sent has null in their place, and a first member that says what they are.

// shelved begins an object that was shelved. No column can have the name: it is the wire's prefix.
var shelved = []byte(`{"cqrs_nonfinite":`)

// Shelve returns an object, of which members may have bare NaN and infinities, as JSON that
// Unshelve takes apart again. An object without them comes back as it is.
func Shelve(object json.RawMessage) (json.RawMessage, error) {
	if !mayHaveTokens(object) {
		return object, nil
	}
	odd := NonFinite{}
	s := scanner{src: object}
	s.skipSpace()
	err := s.object(func(name []byte) error {
		_, tokens, err := s.valueWithTokens()
		if tokens != nil {
			odd[unquote(name)] = tokens
		} else {
			delete(odd, unquote(name)) // of a member that stands twice the last one counts
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("not JSON: %w", err)
	case len(odd) == 0:
		return s.clean(object), nil
	}
	texts := make(map[string]string, len(odd))
	for name, text := range odd {
		texts[name] = string(text)
	}
	member, err := json.Marshal(texts)
	if err != nil {
		return nil, err
	}
	out := append(append(bytes.Clone(shelved), member...), ',')
	return append(out, s.clean(object)[1:]...), nil
}

// Unshelve returns the object that Shelve was given, with null in place of the tokens, and the
// members that have some.
func Unshelve(stored json.RawMessage) (object json.RawMessage, odd NonFinite, err error) {
	if !bytes.HasPrefix(stored, shelved) {
		return stored, nil, nil
	}
	s := scanner{src: stored, pos: len(shelved)}
	member, err := s.value()
	var texts map[string]string
	if err == nil {
		err = json.Unmarshal(member, &texts)
	}
	if err == nil && !s.accept(',') {
		err = s.unexpected("','")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cqrs_nonfinite: %w", err)
	}
	odd = make(NonFinite, len(texts))
	for name, text := range texts {
		odd[name] = json.RawMessage(text)
	}
	return append([]byte{'{'}, stored[s.pos:]...), odd, nil
}

// Restored is an object as the wire has it, from what Shelve made of it.
func Restored(stored json.RawMessage) (json.RawMessage, error) {
	object, odd, err := Unshelve(stored)
	if err != nil || len(odd) == 0 {
		return object, err
	}
	return odd.in(object)
}
