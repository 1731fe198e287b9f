package envelope

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzDecode: whatever arrives, Decode returns a message or a *DecodeError; and what it accepts is not changed by being
// sent on.
func FuzzDecode(f *testing.F) {
	for _, g := range golden(f) {
		f.Add([]byte(g.Body), "", "", "")
	}
	f.Add([]byte(minimal), "key", "3", "true")
	f.Add([]byte(strings.ReplaceAll(minimal, "7", "\t[ -Infinity , \"\\ud800\" ]\n")), "key", "", "")
	f.Add([]byte(with("instance_data", `{"a":NaN,"a":null,"\u0061":-Infinity,"cqrs_revision":30e-1}`)), "", "-1", "0")
	f.Add([]byte(with("expires", `"2026-01-02 03:04:05.123456789+02:30:17"`)), "", "+1", "f")
	f.Add([]byte(minimal), "key", "3", "2026-11-22 22:16:33.237828+00:00")
	f.Fuzz(func(t *testing.T, body []byte, key, after, force string) {
		metadata := map[string]string{"cqrs_key": key, "traceparent": force}
		if after != "" {
			metadata["cqrs_after"] = after
		}
		if force != "" {
			metadata["cqrs_force"] = force
		}
		m, err := Decode(body, metadata)
		if err != nil {
			var decodeError *DecodeError
			require.ErrorAs(t, err, &decodeError)
			require.NotEmpty(t, decodeError.Key)
			return
		}
		require.True(t, json.Valid(m.Data))
		peeked := Peek(body, metadata)
		require.Equal(t, Peeked{m.Model, m.Key, &m.Revision, peeked.Retries, true}, peeked)
		again, model, err := Again(body, time.Unix(0, 0))
		require.NoError(t, err)
		require.Equal(t, m.Model, model)
		sent, err := Decode(again, metadata)
		require.NoError(t, err)
		m.Retries = 0
		if sent.Expires.Equal(time.Unix(0, 0)) {
			m.Expires = sent.Expires
		}
		require.Equal(t, m, sent)
		_, err = m.Fields()
		require.NoError(t, err)
		requireRoundTrip(t, m)
	})
}

// FuzzScanner holds the scanner to encoding/json: the same texts are valid, and they are compacted to the same.
func FuzzScanner(f *testing.F) {
	for _, g := range golden(f) {
		f.Add([]byte(g.Body))
	}
	for _, text := range []string{
		"", " ", "null", "nul", "nullx", "-", "-0", "-01", "01", "1.", ".5", "1.5e", "1.5E+07", "1e5.5", `"\u00e"`, `"\u00eF"`,
		`"\ud83d\ude00"`, `"\a"`, "\"\x1f\"", "\"\x7f\"", `"`, `"\`, "[", "[,]", "[1,]", "[1 2]", "{", `{"a"}`, `{"a":}`, `{"a":1,}`,
		`{a:1}`, ` { "a" : [ ] , "b" : { } } `, "1 1", "\x00", "tru", "[true,false]", "\u00a01", "NaN", "-Infinity", "[Infinity]",
		strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
		strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := scanner{src: text}
		value, err := s.whole()
		if s.nonFinite {
			return // encoding/json has no opinion
		}
		require.Equal(t, json.Valid(text), err == nil, "%v", err)
		if err == nil {
			var want bytes.Buffer
			require.NoError(t, json.Compact(&want, text))
			require.Equal(t, want.String(), string(s.clean(value)))
		}
	})
}
