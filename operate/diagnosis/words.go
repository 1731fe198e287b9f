package diagnosis

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// lasting is a time as people say it: 40 s, 12 min, 3 h, 5 days.
func lasting(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// clock is a time of the last hours, or else with its day, in UTC.
func (s *State) clock(t time.Time) string {
	if s.At.Sub(t) < 12*time.Hour {
		return t.UTC().Format("15:04:05")
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// ended is a text with a full stop, in one line whatever lines an error has.
func ended(text string) string {
	text = printable(strings.Join(strings.Fields(text), " "))
	if strings.HasSuffix(text, ".") {
		return text
	}
	return text + "."
}

// KeyName is how a key is named: order 17. What could be taken for something else is quoted.
func KeyName(model, key string) string { return printable(model) + " " + printable(key) }

// printable is a text in one line, of a bounded length, and quoted where it has to be: it came from
// outside.
func printable(text string) string {
	const limit = 300
	if runes := []rune(text); len(runes) > limit {
		text = string(runes[:limit-1]) + "…"
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", text)
	}
	return text
}

// found says how keys differed.
func found(how map[string]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(how)) {
		parts = append(parts, fmt.Sprintf("%d %s", how[k], k))
	}
	return strings.Join(parts, ", ")
}
