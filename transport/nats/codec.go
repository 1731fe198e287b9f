package nats

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/expiry"
)

const (
	// uuidHeader is watermill-nats's, whose publishers and subscribers read these messages.
	uuidHeader = "_watermill_message_uuid"
	ttlHeader  = "Nats-TTL"
	idHeader   = "Nats-Msg-Id"
	emptyKey   = "%" // stands for a key without characters, which a header cannot have
)

// encode returns a message as the server takes it. Metadata are headers; what a header cannot hold
// is percent-encoded.
func encode(subject string, msg *message.Message) (*natsgo.Msg, error) {
	ttl, limited, err := expiry.Of(msg.Metadata)
	if err != nil {
		return nil, err
	}
	header := make(natsgo.Header, len(msg.Metadata)+3)
	header[uuidHeader] = []string{encodeText(msg.UUID)}
	for key, value := range expiry.Travelling(msg.Metadata) {
		header[encodeKey(key)] = []string{encodeText(value)}
	}
	if limited { // the server counts in seconds, from 1
		seconds := max(1, (ttl+time.Second-1)/time.Second)
		header[ttlHeader] = []string{fmt.Sprintf("%ds", seconds)}
	}
	return &natsgo.Msg{Subject: subject, Header: header, Data: msg.Payload}, nil
}

// decode never fails, because a message that cannot be decoded would come back for ever.
func decode(m *natsgo.Msg, position string) *message.Message {
	msg := message.NewMessage(position, bytes.Clone(m.Data))
	for name, values := range m.Header {
		switch {
		case len(values) == 0 || isServers(name):
		case name == uuidHeader:
			if id := decodeText(values[0]); id != "" {
				msg.UUID = id
			}
		case name == emptyKey:
			msg.Metadata[""] = decodeText(values[0])
		default:
			msg.Metadata[decodeText(name)] = decodeText(values[0])
		}
	}
	delete(msg.Metadata, transport.DirectKey)
	return msg
}

// isServers says that a header is for the server, or by it.
func isServers(name string) bool {
	return len(name) >= 5 && strings.EqualFold(name[:5], "Nats-")
}

func encodeKey(key string) string {
	if key == "" {
		return emptyKey
	}
	plain := func(i int, c byte) bool {
		return c > ' ' && c < 0x7f && c != ':' && c != '%' &&
			(i > 0 || !isServers(key) && key != uuidHeader)
	}
	return encodeBytes(key, plain)
}

// encodeText leaves text as it is, unless a header would change it.
func encodeText(text string) string {
	return encodeBytes(text, func(i int, c byte) bool {
		return c > ' ' && c != 0x7f && c != '%' || c == ' ' && i > 0 && i < len(text)-1
	})
}

func encodeBytes(text string, plain func(i int, c byte) bool) string {
	for i := range len(text) {
		if !plain(i, text[i]) {
			return encodeRest(text, i, plain)
		}
	}
	return text
}

func encodeRest(text string, from int, plain func(i int, c byte) bool) string {
	var b strings.Builder
	b.WriteString(text[:from])
	for i := from; i < len(text); i++ {
		if c := text[i]; plain(i, c) {
			b.WriteByte(c)
		} else {
			escape(&b, c)
		}
	}
	return b.String()
}

// decodeText returns another publisher's text as it is, where its percent signs are no encoding.
func decodeText(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	if plain, err := url.PathUnescape(text); err == nil {
		return plain
	}
	return text
}
