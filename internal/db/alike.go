package db

import (
	"regexp"
	"strings"
)

// varying is what differs between errors of one cause: quoted text, ids, numbers.
var varying = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'|` +
	`\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|[0-9]+`)

// Alike returns what errors of one cause have in common: their words.
func Alike(err string) string { return strings.TrimSpace(varying.ReplaceAllString(err, "…")) }
