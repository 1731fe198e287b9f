package envelope

import (
	"errors"
	"strconv"
	"time"
)

// Again returns the body with which a dead letter is sent to its replica once more, as
// django-cqrs's cqrs_dead_letters does it: its values as they are, no retries so far, and where it
// may expire, a new time for that. model is whom it is for.
//
// It wants what django-cqrs wants: one JSON object that has signal_type, cqrs_id and instance_data.
// The error is a *DecodeError.
func Again(body []byte, expires time.Time) (again []byte, model string, err error) {
	var p parts
	if err := p.read(body); err != nil {
		return nil, "", &DecodeError{Key: "body", Err: err}
	}
	for _, required := range []struct {
		key   string
		value []byte
	}{{"signal_type", p.signal}, {"cqrs_id", p.model}, {"instance_data", p.data}} {
		if required.value == nil {
			return nil, "", &DecodeError{Key: required.key, Err: errMissing}
		}
	}
	model = p.textOf("cqrs_id", p.model)
	if p.err == nil && model == "" {
		p.fail("cqrs_id", errors.New("empty"))
	}
	if p.err != nil {
		return nil, "", p.err
	}
	if p.expires == nil || given(p.expires) {
		p.expires = append(appendTime([]byte{'"'}, expires.Truncate(time.Second), 'T'), '"')
	}
	again = append(again, '{')
	for i, part := range []struct {
		key   string
		value []byte
	}{
		{"signal_type", p.signal}, {"cqrs_id", p.model}, {"instance_data", p.data},
		{"previous_data", p.previous}, {"instance_pk", p.pk}, {"correlation_id", p.correlation},
		{"retries", []byte("0")}, {"expires", p.expires}, {"meta", p.meta},
	} {
		if i > 0 {
			again = append(again, ',')
		}
		again = append(strconv.AppendQuote(again, part.key), ':')
		if part.value == nil {
			part.value = null
		}
		again = append(again, part.value...)
	}
	return append(again, '}'), model, nil
}
