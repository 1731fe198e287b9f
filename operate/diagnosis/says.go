package diagnosis

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// sentences are what is said of each kind, with an example in braces for each value. The table of
// docs/operations.md shows them as they are, so what is printed is found there.
var sentences = map[Kind][]string{
	DatabaseAway: {"The master's database does not answer"},
	NotMigrated:  {"The master's database has no tables of this version"},
	Unreadable:   {"The state of the master cannot be read"},
	NoRelay:      {"No relay runs"},
	BrokerRefuses: {
		"The broker refuses the relay for {4 min}, {2 messages wait, the oldest for 4 min}",
	},
	BrokerFull: {"The broker is full for {4 min}, {2 messages wait, the oldest for 4 min}"},
	BrokerAway: {
		"The broker cannot be reached for {4 min}, {2 messages wait, the oldest for 4 min}",
	},
	OtherOutage:   {"{the relay 7f3a} waits for its {database} for {4 min}"},
	LanesUnowned:  {"{16} of {64} lanes have no relay"},
	QueueVanished: {"The queue of the replica {stats} was gone {4 min} ago"},
	WentBack: {
		"The {replica stats} is ahead of its master in {2 keys} of {order}",
		"{2 changes} of {order} were refused, because they are older than what is here",
	},
	KeysWait: {
		"{order 17} waits for {4 min}",
		"{2} keys wait, {order 17} for {4 min}",
	},
	DeadLetters: {
		"{order 17} was given up {4 min} ago",
		"{2} messages were given up, {order 17} first, {4 min} ago",
	},
	Stalled:         {"The outbox does not become empty"},
	BackfillStopped: {"The backfill of {order} to {stats} stands for {4 min}, after {200 rows}"},
	BackfillLacks:   {"The backfill of {order} to {stats} left out {2 rows}"},
	ReplicaSilent:   {"The replica {stats} is silent for {4 min}"},
	ReplicaLate:     {"The replica {stats} is {4 min} late"},
	ReplicaDeadLetters: {
		"The {replica stats} gave up {order 17} {4 min} ago",
		"The {replica stats} gave up {2} messages, of {order 17} first, {4 min} ago",
		"The {replica stats} gave up {2 messages} of {order}",
	},
	ReplicaWaits:   {"{2 messages wait} at the {replica stats}, {order 17} for {4 min}"},
	ReplicaDiffers: {"The {replica stats} is not as its master in {order}"},
	ReplicaUncertain: {
		"The comparison of {order} with the {replica stats} ended without answers",
	},
	ReplicaDatabaseAway: {"The replica's database does not answer"},
}

var example = regexp.MustCompile(`\{[^}]*\}`)

// said is a sentence of a kind with its values, in their order.
func said(k Kind, form int, values ...any) string {
	next := -1
	return example.ReplaceAllStringFunc(sentences[k][form], func(string) string {
		next++
		return fmt.Sprint(values[next])
	})
}

// Says returns what is said of a kind, before the reason and the full stop, with an example in
// braces for each value.
func (k Kind) Says() []string { return slices.Clone(sentences[k]) }

// In says whether a text, as a tool printed it, says this of something: it has one of the
// sentences, however its lines are broken.
func (k Kind) In(text string) bool {
	text = strings.Join(strings.Fields(text), " ")
	return slices.ContainsFunc(sentences[k], func(sentence string) bool {
		var pattern strings.Builder
		last := 0
		for _, at := range example.FindAllStringIndex(sentence, -1) {
			pattern.WriteString(regexp.QuoteMeta(sentence[last:at[0]]))
			pattern.WriteString(like(sentence[at[0]+1 : at[1]-1]))
			last = at[1]
		}
		pattern.WriteString(regexp.QuoteMeta(sentence[last:]) + `[.:]`)
		return regexp.MustCompile(pattern.String()).MatchString(text)
	})
}

// like is a pattern of what may stand where an example does: a number, a time or any text.
func like(example string) string {
	switch {
	case strings.Trim(example, "0123456789") == "":
		return `(?:more than )?\d+`
	case strings.HasSuffix(example, "4 min") && !strings.Contains(example, ","):
		return `\d+ (?:s|min|h|days)`
	default:
		return `.{1,300}?`
	}
}
