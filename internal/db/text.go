package db

import (
	"bytes"
	"iter"
	"strings"
)

// OrNull returns a text as a value that is null where the text is empty.
func OrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// QuoteText makes a text safe inside of a literal.
func QuoteText(text string) string { return strings.ReplaceAll(text, "'", "''") }

// BareName splits a quoted, perhaps qualified name.
func BareName(table, quote string) (schema, name string) {
	name = strings.ReplaceAll(table, quote, "")
	if before, after, found := strings.Cut(name, "."); found {
		return before, after
	}
	return "", name
}

// ChunkBySize splits items so that the text of one statement stays under limit, with at least one
// per chunk.
func ChunkBySize[T any](items []T, size func(T) int, limit int) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		start, total := 0, 0
		for i, item := range items {
			n := size(item)
			if i > start && total+n > limit {
				if !yield(items[start:i:i]) {
					return
				}
				start, total = i, 0
			}
			total += n
		}
		if start < len(items) {
			yield(items[start:])
		}
	}
}

// SizeQuoted returns how long a text is as a literal, in which an apostrophe is doubled.
func SizeQuoted(text []byte) int { return len(text) + bytes.Count(text, []byte("'")) }
