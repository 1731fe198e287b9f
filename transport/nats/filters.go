package nats

import (
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// filters are the bindings of one consumer, or of several.
type filters struct {
	all    bool // one takes everything
	exact  map[string]bool
	prefix map[string]bool // of those that end with >, with the dot before it
	other  [][]string      // tokens of those with wildcards elsewhere, which only others make
}

func newFilters(configs ...jetstream.ConsumerConfig) *filters {
	f := &filters{exact: map[string]bool{}, prefix: map[string]bool{}}
	for _, config := range configs {
		f.add(config)
	}
	return f
}

func (f *filters) add(config jetstream.ConsumerConfig) {
	subjects := config.FilterSubjects
	if config.FilterSubject != "" {
		subjects = append(subjects[:len(subjects):len(subjects)], config.FilterSubject)
	}
	f.all = f.all || len(subjects) == 0
	for _, s := range subjects {
		before, open := strings.CutSuffix(s, ">")
		switch {
		case strings.Contains(s, "*"):
			f.other = append(f.other, strings.Split(s, "."))
		case open && before == "":
			f.all = true
		case open:
			f.prefix[before] = true
		default:
			f.exact[s] = true
		}
	}
}

// match says that one of the filters takes a subject.
func (f *filters) match(subject string) bool {
	if f.all || f.exact[subject] {
		return true
	}
	if len(f.prefix) > 0 {
		for i := range len(subject) - 1 {
			if subject[i] == '.' && f.prefix[subject[:i+1]] {
				return true
			}
		}
	}
	if len(f.other) == 0 {
		return false
	}
	tokens := strings.Split(subject, ".")
	for _, pattern := range f.other {
		if matchTokens(pattern, tokens) {
			return true
		}
	}
	return false
}

func matchTokens(pattern, tokens []string) bool {
	for i, p := range pattern {
		switch {
		case p == ">":
			return len(tokens) > i
		case i >= len(tokens) || p != "*" && p != tokens[i]:
			return false
		}
	}
	return len(pattern) == len(tokens)
}
