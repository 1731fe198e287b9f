package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
)

// secretName are names of fields whose values nobody shows.
var secretName = regexp.MustCompile(`(?i)passw|passphrase|secret|token|api_?key|private_?key|` +
	`credential|authori[sz]ation|cookie|session|salt|hash|signature|\bpin\b|\bcvv\b|\bcvc\b|` +
	`card_?number|iban|ssn|otp`)

const (
	hidden = "••••••"
	// mostShown bounds what of a message a page has.
	mostShown = 64 << 10
)

// masked is JSON in lines, with the values of secret names hidden. What cannot be read is not
// shown: nobody knows what is in it.
func masked(data []byte) string {
	if len(data) > mostShown {
		return fmt.Sprintf("(%d bytes are too many to be shown: relay dead-letters list --json)",
			len(data))
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // as it was written
	var value any
	if err := decoder.Decode(&value); err != nil {
		return "(it is not JSON: relay dead-letters list --json)"
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(hide(value)); err != nil {
		return "(it cannot be shown)"
	}
	return out.String()
}

func hide(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			if secretName.MatchString(name) && inner != nil {
				v[name] = hidden
				continue
			}
			v[name] = hide(inner)
		}
	case []any:
		for i := range v {
			v[i] = hide(v[i])
		}
	}
	return value
}

func parseID(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, errNoLetter
	}
	return id, nil
}
