package database

import "strings"

// kind is what a statement means for the lock of a SQLite file.
type kind int

const (
	reads  kind = iota
	writes      // or may
	begins      // a transaction
	ends        // one
)

// kindOf judges a statement by its words. Where several statements, or a WITH, may hide a write, it
// takes them for one: a read that waits for its turn is slow, a write that does not is unfair.
// SQLite's own lock keeps both right.
func kindOf(query string) kind {
	rest := skipBlank(query)
	word, tail := firstWord(rest)
	switch word {
	case "BEGIN":
		return begins
	case "COMMIT", "END":
		return ends
	case "ROLLBACK":
		if containsWord(tail, "TO") {
			return reads
		}
		return ends
	case "PRAGMA", "EXPLAIN", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH":
		return reads
	case "VACUUM":
		if containsWord(tail, "INTO") {
			return reads // it makes a copy
		}
		return writes
	case "", "SELECT", "VALUES", "WITH":
		several := strings.Contains(strings.TrimRight(tail, "; \t\r\n"), ";")
		if (several || word == "WITH") && hidesWrite(tail) {
			return writes
		}
		return reads
	default:
		return writes
	}
}

func hidesWrite(text string) bool {
	for _, word := range []string{"INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP",
		"ALTER"} {
		if containsWord(text, word) {
			return true
		}
	}
	return false
}

// skipBlank leaves out spaces, semicolons and comments at the beginning.
func skipBlank(text string) string {
	for {
		text = strings.TrimLeft(text, " \t\r\n\f;(")
		switch {
		case strings.HasPrefix(text, "--"):
			_, text, _ = strings.Cut(text, "\n")
		case strings.HasPrefix(text, "/*"):
			_, text, _ = strings.Cut(text[2:], "*/")
		default:
			return text
		}
	}
}

func firstWord(text string) (word, tail string) {
	end := 0
	for end < len(text) && isLetter(text[end]) {
		end++
	}
	return strings.ToUpper(text[:end]), text[end:]
}

func containsWord(text, word string) bool {
	for i := 0; i+len(word) <= len(text); i++ {
		if strings.EqualFold(text[i:i+len(word)], word) &&
			(i == 0 || !isLetter(text[i-1])) && (i+len(word) == len(text) ||
			!isLetter(text[i+len(word)])) {
			return true
		}
	}
	return false
}

func isLetter(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c >= 0x80
}
