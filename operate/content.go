package operate

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
)

// With content, a line of DiffMaster has a third value per key: for each field that line 1 names, in that order, six
// characters that stand for its value. So a replica compares what it keeps, whatever it keeps and whatever it calls it.
const (
	announcesContent = "content="
	hashLen          = 6
	noHash           = "------" // the instance has no such field
)

// fieldNames are the members of an object in their order.
func fieldNames(object json.RawMessage) ([]string, error) {
	var names []string
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return nil, err
		}
		text := fmt.Sprint(name)
		if strings.ContainsAny(text, " \n\r") || text == "cqrs_revision" || text == "cqrs_updated" {
			continue // a name that the first line cannot hold is not compared
		}
		names = append(names, text)
	}
	return names, nil
}

// appendHashes writes the hashes of an instance's fields.
func appendHashes(line []byte, object json.RawMessage, names []string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, err
	}
	for _, name := range names {
		value, found := fields[name]
		if !found {
			line = append(line, noHash...)
			continue
		}
		line = appendHash(line, value)
	}
	return line, nil
}

// appendHash writes 36 bits of a hash of the value. Two values that a replica's column may not tell apart have the same.
func appendHash(line []byte, value json.RawMessage) []byte {
	h := fnv.New64a()
	_, _ = h.Write(envelope.AppendCanonical(nil, value)) // a hash never fails
	sum := binary.BigEndian.AppendUint64(nil, mix(h.Sum64()))
	return append(line, base64.RawURLEncoding.EncodeToString(sum)[:hashLen]...)
}

// mix spreads what the last bytes changed over all bits: of FNV-1a they reach the upper ones hardly.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
