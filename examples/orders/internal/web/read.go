package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// maxBody bounds what a client can make a service hold in memory.
const maxBody = 1 << 20

// Read decodes the request's body. An unknown field is an error: it is a misspelt one.
func Read[T any](r *http.Request) (T, error) {
	var v T
	body, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return v, fmt.Errorf("body: %w, want at most %d bytes", ErrTooLarge, tooLarge.Limit)
	}
	if err != nil {
		return v, InvalidError{"body: it ended early, or came too slowly"}
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		return v, InvalidError{decodeProblem(err)}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return v, InvalidError{"body: something follows the JSON object"}
	}
	return v, nil
}

// decodeProblem says what is wrong with JSON in the words of somebody who does not know our types.
func decodeProblem(err error) string {
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return "body: empty, want a JSON object"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "body: the JSON ends too early"
	case errors.As(err, &mismatch):
		field := mismatch.Field
		if field == "" {
			field = "body"
		}
		return fmt.Sprintf("%s: %s, want %s", field, given(mismatch.Value), wanted(mismatch.Type))
	default:
		return "body: " + Short(strings.TrimPrefix(err.Error(), "json: "))
	}
}

func given(value string) string {
	if number, is := strings.CutPrefix(value, "number "); is {
		return Short(number)
	}
	switch value {
	case "string":
		return "a text"
	case "number":
		return "a number"
	case "bool":
		return "true or false"
	case "array":
		return "a list"
	default:
		return "an object"
	}
}

func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Int, reflect.Int64:
		return "a whole number of 64 bits"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}
