// Package mirrored is what package operate asks of a replica.Replica, and a service need not see:
// how models are kept, which keys and rows are there, and dead letters once more.
//
// Package replica fills in Of. So operate has all of it, and the Go API of replica has only what
// services call.
package mirrored

import (
	"context"
	"encoding/json"
	"iter"
	"reflect"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/ledger"
)

// Of returns what can be asked of a replica, which is a *replica.Replica.
var Of func(rep any) Replica

// Replica says what a replica has.
type Replica interface {
	// Model returns how a registered model is kept.
	Model(model string) (Shape, error)
	// Check fails where the replica's tables are missing or older than this version, and where the
	// table of a mirrored model does not fit its struct. Run asks the same of all models at its
	// start; whoever uses Apply or the look-ups alone asks here, because Apply waits for a database
	// in trouble.
	Check(ctx context.Context, model string) error
	// CheckWrites is Check, and fails as well where the database takes no writes.
	CheckWrites(ctx context.Context, model string) error

	// Lookup returns what the replica has of the given primary keys of the master, in their order,
	// in one snapshot. withRows reads whole rows of a mirrored model. It fails for a key that no
	// row of the table can have: such a key is never taken for a row that is not there.
	Lookup(ctx context.Context, model string, pks []json.RawMessage, withRows bool) ([]Kept, error)
	// LookupRows is Lookup, and looks on where a row cannot be read: that one has no Row.
	LookupRows(ctx context.Context, model string, pks []json.RawMessage, withRows bool) ([]Kept,
		error)
	// Count returns how many rows there are of a model, or most where there are more; of a model
	// with a handler, how many keys the ledger has as live. It reads no more than most.
	Count(ctx context.Context, model string, most int64) (int64, error)
	// Keys reads the rows that a mirrored model owns, their primary keys only, page by page in its
	// order. where, if not nil, narrows the query, whose model is the registered one.
	Keys(
		ctx context.Context, model string, where func(*bun.SelectQuery) *bun.SelectQuery, pageSize int,
	) iter.Seq2[[]reflect.Value, error]
	// KeyIsExact says that two texts are two keys in the type of the primary key: not in a number
	// or a time, which has several spellings.
	KeyIsExact(ctx context.Context, model string) (bool, error)

	// LedgerSpeaks says that what the ledger has as live is what the table holds, so that Live can
	// be trusted. false may also mean that there is no cheap way to tell.
	LedgerSpeaks(ctx context.Context, model string) (bool, error)
	// Live returns up to limit keys that the ledger has as live.
	Live(ctx context.Context, model string, s Span, limit int) ([]KeyRevision, error)
	// Pairs is Live for a model whose keys are integers, and cheaper.
	Pairs(ctx context.Context, model string, s Span, limit int) (Pairs, error)
	// Known says which keys the ledger has as live.
	Known(ctx context.Context, model string, keys []string) (map[string]bool, error)

	// Digest returns the digest of what is held in a part of the ledger: its live keys whose rows
	// are there.
	Digest(ctx context.Context, model string, p Portion) (ledger.Digest, error)
	// Holdings returns what is held in a part of the ledger, and the last key that it has there.
	// more says that its limit ended it.
	Holdings(ctx context.Context, model string, p Portion) (
		held []Holding, last string, more bool, err error)

	// Clear deletes the rows that a mirrored model owns, and forgets what the ledger has as live,
	// in one transaction. Tombstones stay, so that what was deleted stays so. It is for a load that
	// starts over.
	Clear(ctx context.Context, model string) error
	// RetryDeadLetters takes dead letters through the gate again, after what made them fail was
	// mended. What is applied, known or overtaken is removed, the rest stays. tell is called for
	// each.
	RetryDeadLetters(ctx context.Context, f DeadLetterFilter, tell func(RetriedDeadLetter)) error
	// PurgeDeadLetters deletes dead letters for good, and returns how many.
	PurgeDeadLetters(ctx context.Context, f DeadLetterFilter) (int64, error)

	// HasLedger says that there is a database, so that Lookup works.
	HasLedger() bool
	// Listen has a listener told of what the master says and of what is missing here. It is for
	// before the first message.
	Listen(l Listener) error
	// Conditions returns how things stand with each model, in the order of registration.
	Conditions(ctx context.Context) ([]Condition, error)
	// Entry returns what is here of one key, as ledgers spell it.
	Entry(ctx context.Context, model, key string) (Entry, error)

	// WantBackfills notes which models the replica asks its master for: those that it has nothing
	// of, and never asked for. It is for the time before the first message.
	WantBackfills(ctx context.Context) error
	// WantedBackfills returns those that have not come yet, rows before those that point to them.
	WantedBackfills(ctx context.Context) ([]Backfill, error)
	// Backfilled notes that all of a model has come, by the backfill with this id.
	Backfilled(ctx context.Context, model, id string) error

	// Verified notes how the last comparison of a model with its master ended.
	Verified(ctx context.Context, v Verification) error
}

// Verification is how a comparison of a model ended. Through is up to when all was proven to be
// here, zero for never; its times are by the master's clock.
type Verification struct {
	Model, Outcome string
	Through, Ended time.Time
	// Found counts the keys that differed, by how.
	Found map[string]int64
}

// Backfill is a model that the replica asks its master for.
type Backfill struct {
	// ID is the same in all processes of the replica.
	Model, ID string
	// Parents are the models that its rows point to.
	Parents []string
}

// Portion is a part of the ledger in the order of the bytes of its keys: those after After up to
// To, where an empty end is open, and no more than Limit, where that is not zero, counting those
// whose rows are not there.
type Portion struct {
	After, To string
	Limit     int
	// Speaks says that LedgerSpeaks said so: then the ledger alone is read.
	Speaks bool
	// Content, if set, makes a text of a row, which is compared, too.
	Content func(Kept) (string, error)
}

// Holding is what the replica has of a key.
type Holding struct {
	Key      string
	Revision int64
	Content  string
}

// Listener is told what only a conversation with the master can mend. No call may wait long.
type Listener interface {
	// Starts is told before the first message is taken. Its error ends the start.
	Starts(ctx context.Context) error
	// Control is told what the master said in the replica's queue, when all is settled that came
	// before it there.
	Control(ctx context.Context, body []byte)
	// Lacks is told of a key that is not as its master has it.
	Lacks(l Lack)
}

// Lack is a key that is not as its master has it.
type Lack struct {
	Model, Key string
	// Above says that a state helps only if its revision is higher.
	Above int64
	Cause Cause
}

// Cause is why a key is not as its master has it.
type Cause string

// The causes.
const (
	// Gap is a message that was lost on the way.
	Gap Cause = "gap"
	// MissingParent is a row that another one points to.
	MissingParent Cause = "missing_parent"
	// DeadLetter is a state that could not be applied.
	DeadLetter Cause = "dead_letter"
	// Missing, Behind and Content are what a comparison with the master found: a row that is not
	// there, one that is older, and one that holds something else at the same revision.
	Missing Cause = "missing"
	Behind  Cause = "behind"
	Content Cause = "content"
)

// Condition is how things stand with a model.
type Condition struct {
	Model string
	// Newest is the latest time of the master's clock among what this process has applied; zero
	// before the first.
	Newest time.Time
	// Applied counts what this process has applied.
	Applied int64
	// Waiting and DeadLetters are what the database has of them.
	Waiting, DeadLetters int64
	// Stuck are those, grouped by error: the largest groups of the latest ones.
	Stuck []StuckGroup
}

// Shape is how a model is kept.
type Shape struct {
	// Table is the bun table of the registered type.
	Table *schema.Table
	// Key are the columns that hold the master's key, in its order: the primary key without what
	// Constant fills.
	Key []*schema.Field
	// Mirrored says that the rows are kept in Table; else a handler does what it likes, and the
	// ledger is all there is.
	Mirrored bool
	// Fields is what the master calls each column. Constant, computed and own ones are not among
	// them.
	Fields map[string]string
	// Constants are the columns that have the same value in every row.
	Constants map[string]any
	// Computed are the columns that the service's code makes of a message, or of nothing.
	Computed []string
	// NaNAsNull says that NULL stands for NaN and the infinities, too.
	NaNAsNull bool
	// Children are the relations that are kept in tables of their own.
	Children []Child
}

// Child is how a has-many relation is kept.
type Child struct {
	// Field is what the master calls the relation.
	Field string
	Table *schema.Table
	// Columns are those that the master's lists fill, under its names: not those that point to the
	// parent.
	Columns []*schema.Field
}

// Kept is what the replica has of one key.
type Kept struct {
	// Key is the text by which ledgers know the key.
	Key string
	// Revision is the ledger's, -1 where it does not know the key; Updated is the master's time of
	// it.
	Revision int64
	Updated  time.Time
	// Applied is when the replica's database wrote that down, by its own clock (see
	// replica.Replica.Now); zero where it does not say.
	Applied time.Time
	// Deleted says that the ledger holds a tombstone.
	Deleted bool
	// Present says that the row is there; of a model with a handler, that the ledger has it as
	// live.
	Present bool
	// Row is the row of a mirrored model where it is there: its primary key only, unless whole rows
	// were asked for. Nulls names the columns that are NULL: the Go value of a field that is no
	// pointer does not say.
	Row   reflect.Value
	Nulls map[string]bool
	// Children are the rows of each relation of Shape.Children, in that order, where whole rows
	// were asked for.
	Children [][]ChildRow
}

// ChildRow is a row of a relation.
type ChildRow struct {
	Row   reflect.Value
	Nulls map[string]bool
}

// Span is a part of the ledger in the database's order of texts; an end that is empty is open.
// AnyOrder does not sort.
type Span = ledger.Range

// KeyRevision is a key with its revision.
type KeyRevision = ledger.KeyRevision

// Pairs are keys with their revisions in the words of a line of a diff, but for its outer brackets:
// 1,0],[2,5.
type Pairs = ledger.Pairs

// DeadLetterFilter chooses dead letters: those for which everything holds that is set. The zero
// value chooses all.
type DeadLetterFilter struct {
	IDs        []int64
	Model, Key string
	// Before chooses those given up before that time.
	Before time.Time
}

// RetriedDeadLetter is what became of a dead letter.
type RetriedDeadLetter struct {
	ID         int64
	Model, Key string
	// Outcome is that of a replica.Result: returned where the message could still not be applied,
	// and stays; Err says why.
	Outcome string
	Err     error
}
