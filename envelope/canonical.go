package envelope

import (
	"bytes"
	"encoding/json"
	"math/big"
	"regexp"
	"strings"
)

// AppendCanonical writes a JSON value in one spelling: members sorted, times in UTC, days as their
// midnight, and numbers, also those in strings, without what changes nothing. One side may keep
// 1.50 as a decimal and the other as text, or a day as a date and the other as a time.
func AppendCanonical(b []byte, value json.RawMessage) []byte {
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
	day    = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
	moment = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:`)
)

func canonical(v any) any {
	switch v := v.(type) {
	case json.Number:
		return canonicalNumber(v.String())
	case string:
		if day.MatchString(v) {
			v += " 00:00:00+00:00"
		}
		if moment.MatchString(v) {
			if t, err := ParseTime(v); err == nil {
				return FormatTime(t)
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
