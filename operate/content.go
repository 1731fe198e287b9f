package operate

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/big"
	"regexp"
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
	_, _ = h.Write(appendCanonical(nil, value)) // a hash never fails
	sum := binary.BigEndian.AppendUint64(nil, mix(h.Sum64()))
	return append(line, base64.RawURLEncoding.EncodeToString(sum)[:hashLen]...)
}

// mix spreads what the last bytes changed over all bits: of FNV-1a they reach the upper ones hardly.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// appendCanonical writes a JSON value in one spelling: members sorted, times in UTC, and numbers, also those in strings,
// without what changes nothing, because one side may keep 1.50 as a decimal and the other as text.
func appendCanonical(b []byte, value json.RawMessage) []byte {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return append(b, value...)
	}
	text, _ := json.Marshal(canonical(v)) // it was JSON
	return append(b, text...)
}

var (
	number = regexp.MustCompile(`^-?[0-9]{1,60}(\.[0-9]{1,60})?([eE][-+]?[0-9]{1,3})?$`)
	moment = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:`)
)

func canonical(v any) any {
	switch v := v.(type) {
	case json.Number:
		return canonicalNumber(v.String())
	case string:
		if moment.MatchString(v) {
			if t, err := envelope.ParseTime(v); err == nil {
				return envelope.FormatTime(t)
			}
		}
		return canonicalNumber(v)
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = canonical(v[name])
		}
	}
	return v
}

// canonicalNumber is a decimal number in the shortest form, and any other text as it is.
func canonicalNumber(text string) string {
	if !strings.ContainsAny(text, ".eE") || !number.MatchString(text) {
		return text
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return text
	}
	exact := r.FloatString(400)
	return strings.TrimSuffix(strings.TrimRight(exact, "0"), ".")
}
