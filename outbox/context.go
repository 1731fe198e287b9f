package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

type (
	correlationKey struct{}
	metaKey        struct{}
	headersKey     struct{}
)

// The limits of what travels beside a message's data: those that every broker takes. AMQP has 255
// bytes for the name of a header and 128 kB for all of them with the message's other properties;
// NATS takes no name with a space or a colon, and no value of several lines.
const (
	maxCorrelation = 255
	maxHeaderName  = 255
	maxHeaders     = 16 << 10 // bytes of all names and values together
)

// WithCorrelationID sets the correlation id of the messages of a transaction: at most 255 bytes of
// UTF-8 without NUL. Pass the context to [Box.RunInTx].
func WithCorrelationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// WithHeaders adds to the headers of the messages of a transaction: what travels beside the body,
// as traceparent does. Pass the context to [Box.RunInTx]. [Config].Headers does it for every
// transaction.
//
// A commit is refused whose headers some broker would not take: a name has at most 255 printable
// ASCII characters, no space and no colon; a value is UTF-8 without NUL and line breaks; all
// together have at most 16 kB. Names that begin with "cqrs_", "cqrsync_" or "_watermill" are those
// of cqrsync and Watermill; CC and BCC would make RabbitMQ send the message elsewhere.
func WithHeaders(ctx context.Context, headers map[string]string) context.Context {
	return context.WithValue(ctx, headersKey{}, merged(headersOf(ctx), headers))
}

func headersOf(ctx context.Context) map[string]string {
	headers, _ := ctx.Value(headersKey{}).(map[string]string)
	return headers
}

// headers are those of a transaction's messages, nil for none.
func (b *Box) headers(ctx context.Context) (map[string]string, error) {
	headers := headersOf(ctx)
	if b.contextHeaders != nil {
		headers = merged(b.contextHeaders(ctx), headers)
	}
	if len(headers) == 0 {
		return nil, nil
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(headers)) { // the same complaint every time
		size += len(name) + len(headers[name])
		if err := checkHeader(name, headers[name]); err != nil {
			return nil, fmt.Errorf("header %.40q: %w", name, err)
		}
	}
	if size > maxHeaders {
		return nil, fmt.Errorf("headers: they have %d bytes, at most %d are sent: "+
			"put what is large into the row or the meta", size, maxHeaders)
	}
	return headers, nil
}

func checkHeader(name, value string) error {
	lower := strings.ToLower(name)
	switch {
	case name == "" || strings.HasPrefix(lower, "cqrs_") || strings.HasPrefix(lower, "cqrsync_"):
		return errors.New("names that are empty or begin with cqrs_ or cqrsync_ are cqrsync's " +
			"own: choose another")
	case strings.HasPrefix(lower, "_watermill"):
		return errors.New("names that begin with _watermill are Watermill's own: choose another")
	case lower == "cc" || lower == "bcc":
		return errors.New("RabbitMQ would send the message to the queues it names: choose another " +
			"name")
	case len(name) > maxHeaderName:
		return fmt.Errorf("its name has %d bytes, at most %d are sent: choose a shorter one",
			len(name), maxHeaderName)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == ':' {
			return errors.New("its name is to be of printable ASCII characters, without spaces " +
				"and colons")
		}
	}
	if strings.ContainsAny(value, "\r\n") {
		return errors.New("its value has a line break: write it without, or in base64")
	}
	if err := checkBeside(value); err != nil {
		return fmt.Errorf("its value: %w", err)
	}
	return nil
}

// checkBeside checks a text that travels beside the data.
func checkBeside(text string) error {
	switch {
	case !utf8.ValidString(text):
		return errors.New("it is not valid UTF-8: write it in base64")
	case strings.IndexByte(text, 0) >= 0:
		return errors.New("it has a NUL character: write it without, or in base64")
	}
	return nil
}

// WithMeta adds to the meta of the messages of a transaction. Pass the context to [Box.RunInTx].
func WithMeta(ctx context.Context, meta map[string]any) context.Context {
	return context.WithValue(ctx, metaKey{}, merged(metaOf(ctx), meta))
}

func metaOf(ctx context.Context) map[string]any {
	meta, _ := ctx.Value(metaKey{}).(map[string]any)
	return meta
}

func correlationOf(ctx context.Context) (string, error) {
	id, _ := ctx.Value(correlationKey{}).(string)
	err := checkBeside(id)
	if len(id) > maxCorrelation {
		err = fmt.Errorf("it has %d bytes, at most %d are sent: use a shorter one, such as a hash",
			len(id), maxCorrelation)
	}
	if err != nil {
		return "", fmt.Errorf("correlation id: %w", err)
	}
	return id, nil
}

func merged[T any](first, wins map[string]T) map[string]T {
	all := make(map[string]T, len(first)+len(wins))
	maps.Copy(all, first)
	maps.Copy(all, wins)
	return all
}

// metaJSON is the meta of a model's messages, nil for none.
func (m *model) metaJSON(ctx context.Context) (json.RawMessage, error) {
	meta := metaOf(ctx)
	if m.meta != nil {
		meta = merged(m.meta(ctx), meta)
	}
	if len(meta) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(meta)
	if err == nil {
		err = checkMarshalled(meta, text)
	}
	if err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	return text, nil
}
