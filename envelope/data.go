package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

const (
	dataRevision = "cqrs_revision"
	dataUpdated  = "cqrs_updated"
)

// Stamp returns data, a JSON object, with cqrs_revision and cqrs_updated appended; a zero time is
// null. It splices text and parses nothing, so it is cheap enough for every row of a backlog;
// members of the same name that data has already are overruled, since the last one counts. What is
// not an object comes back as it is, and Encode refuses it.
func Stamp(data json.RawMessage, revision int64, updated time.Time) json.RawMessage {
	const stampLen = len(`,"cqrs_revision":,"cqrs_updated":"2026-11-22 22:16:33.237828+00:00"}`) + 20
	return AppendStamp(make([]byte, 0, len(data)+stampLen), data, revision, updated)
}

// AppendStamp appends to dst what Stamp returns. Encode copies it, so that one dst does for many
// messages.
func AppendStamp(dst []byte, data json.RawMessage, revision int64, updated time.Time) []byte {
	body, isObject := bytes.CutSuffix(bytes.TrimSpace(data), []byte("}"))
	if !isObject || !bytes.HasPrefix(body, []byte("{")) {
		return append(dst, data...)
	}
	dst = append(dst, body...)
	if len(bytes.TrimSpace(body)) > 1 {
		dst = append(dst, ',')
	}
	dst = append(dst, `"`+dataRevision+`":`...)
	dst = strconv.AppendInt(dst, revision, 10)
	dst = append(dst, `,"`+dataUpdated+`":`...)
	if updated.IsZero() {
		return append(dst, "null}"...)
	}
	dst = append(dst, '"')
	dst = appendTime(dst, updated, ' ')
	return append(dst, `"}`...)
}

// DeleteData returns the instance_data of a DELETE, before Stamp. The key is always called id,
// whatever its column is called.
func DeleteData(pk json.RawMessage) json.RawMessage {
	return slices.Concat([]byte(`{"id":`), pk, []byte(`}`))
}

// Fields returns the top level of Data without cqrs_revision and cqrs_updated. The values are parts
// of Data, not copies.
func (m *Message) Fields() (map[string]json.RawMessage, error) {
	// A map that fits is a third of the cost; nested objects have names too, so it may be too
	// large.
	fields := make(map[string]json.RawMessage, min(bytes.Count(m.Data, []byte(`":`)), 64))
	s := scanner{src: m.Data}
	s.skipSpace()
	err := s.object(func(name []byte) error {
		value, err := s.value()
		fields[unquote(name)] = value
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, fmt.Errorf("instance_data: %w", err)
	}
	delete(fields, dataRevision)
	delete(fields, dataUpdated)
	return fields, nil
}
