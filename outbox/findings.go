package outbox

import (
	"fmt"
)

// FindingKind is what a [Finding] is about, and what [Accept] takes.
type FindingKind string

// What [Box.Check] looks for. The first five make messages wrong or missing; Check returns them as
// errors. The others are as they should be in many services; Check logs them.
const (
	// FoundCascade is a foreign key by which the database itself changes rows of a registered
	// table, or of a relation that is sent: no statement names them, so no message tells of it.
	FoundCascade FindingKind = "cascade"
	// FoundRule is a rule that rewrites the writes of a registered table (PostgreSQL).
	FoundRule FindingKind = "rule"
	// FoundKey is a model whose key is not unique in its table, or that reads a text column as a
	// number, as which '01' is '1': two rows would share one revision.
	FoundKey FindingKind = "key"
	// FoundRounding is a column of a registered table, or of a relation that is sent, in which
	// SQLite makes a number of a decimal that Go holds as a text: digits beyond the fifteenth are
	// lost.
	FoundRounding FindingKind = "rounding"
	// FoundSequence is an outbox whose messages are numbered by a sequence with a cache: they could
	// leave out of order. It cannot be accepted.
	FoundSequence FindingKind = "sequence"

	// FoundTrigger is a trigger on a registered table, or on a relation that is sent. What it does
	// to the written row is read and sent; what it writes to other registered rows is not.
	FoundTrigger FindingKind = "trigger"
	// FoundRowSecurity is row level security: a row that the session may not read cannot be sent.
	FoundRowSecurity FindingKind = "row security"
	// FoundSpelling is a key column that takes two spellings for one value: the key is the stored
	// one.
	FoundSpelling FindingKind = "spelling"
	// FoundRelation is a relation that is sent and whose type does not embed Tracked: a write of it
	// through another bun.DB is not refused.
	FoundRelation FindingKind = "relation"
	// FoundUnswept are notes of triggers that nobody has swept for a minute: what other programs
	// wrote is not sent until somebody does. It cannot be accepted.
	FoundUnswept FindingKind = "unswept"
)

// Finding is something about a database that may surprise later. It is an error, so that errors.As
// finds it in what [Box.Check] returns.
type Finding struct { //nolint:errname // it is listed, too, where it is no error
	Kind FindingKind
	// Model is the CQRS id, Table the table that it is about: the model's or that of a relation.
	// Model is empty for the outbox itself.
	Model, Table string
	// Detail says what was found, Fix what to do.
	Detail, Fix string
}

func (f *Finding) Error() string {
	about := "the outbox"
	if f.Model != "" {
		about = "model " + f.Model
	}
	return fmt.Sprintf("outbox: %s: table %s: %s; %s", about, f.Table, f.Detail, f.Fix)
}

// IsWrong says that messages can be wrong or missing because of it.
func (f *Finding) IsWrong() bool {
	switch f.Kind {
	case FoundCascade, FoundRule, FoundKey, FoundRounding, FoundSequence:
		return true
	}
	return false
}

// Accept says that findings of these kinds are known for the model, and right as they are:
// [Box.Check] and [Box.Findings] leave them out. For one that makes messages wrong it means that
// the service reports the rows itself (Touch, Saved, Deleted), or that the case does not come up.
func Accept(kinds ...FindingKind) Option {
	return func(m *model) error {
		for _, kind := range kinds {
			switch kind {
			case FoundCascade, FoundRule, FoundKey, FoundRounding:
			case FoundTrigger, FoundRowSecurity, FoundSpelling, FoundRelation:
			default:
				return fmt.Errorf("Accept: %q cannot be accepted: name the kinds that start with "+
					"Found, but not FoundSequence", kind)
			}
		}
		m.accepted = append(m.accepted, kinds...)
		return nil
	}
}
