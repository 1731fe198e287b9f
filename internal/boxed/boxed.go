// Package boxed is what package operate asks of an outbox.Box, and a service need not see: reading
// whole models as replicas are to know them, and writing rows as the wire has them.
//
// Package outbox fills in what the two variables hold. So operate has all of it, and the Go API of
// outbox has only what services call.
package boxed

import (
	"context"
	"encoding/json"
	"iter"
	"reflect"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// Of returns what can be asked of a box, which is an *outbox.Box.
var Of func(box any) Box

// Where returns an outbox.Option by which only the rows are sent for which a condition in SQL is
// true. Whoever calls it has checked the condition.
var Where func(condition string) any

// Rows write rows of any bun table, a replica's too, as a master sends them.
var Rows interface {
	// Encode writes a row, as it was read, as instance_data has it: its columns under their SQL
	// names. nulls names those that are NULL in the database, which the Go value of a field that is
	// no pointer does not say. NaN and the infinities are bare, as Python writes them (see
	// envelope.Quoted).
	Encode(table *schema.Table, row reflect.Value, nulls stored.Nulls) (json.RawMessage, error)
	// Key returns the key of a row that was read, which stands in the given columns, as the wire
	// has it, and as the text by which ledgers know it. It is never null: a zero is the key zero.
	Key(columns []*schema.Field, row reflect.Value) (pk json.RawMessage, key string, err error)
}

// Box reads the registered models of an outbox, while writes go on.
type Box interface {
	// Model returns the bun table of a registered model.
	Model(model string) (*schema.Table, error)
	// Fields says, by the names of the columns that a model sends, what messages call them (see
	// outbox.Rename).
	Fields(model string) (map[string]string, error)
	// Instances reads the instances of a model with their state, page by page in the order of the
	// primary key. Each page is one snapshot of rows, relations and ledger, so that no state
	// carries another one's revision. Rows that Filter keeps from replicas are left out; rows that
	// were there before cqrsync, and were not written since, have revision 0 and the time 1970. A
	// page may be empty. The iteration ends with the first error.
	Instances(ctx context.Context, model string, s Selection) iter.Seq2[[]Instance, error]
	// Revisions is Instances without Data and Updated, and faster.
	Revisions(ctx context.Context, model string, s Selection) iter.Seq2[[]Instance, error]
	// Listing reads which revisions a model has from the ledger alone, page by page in its order:
	// several times as fast as Revisions, because no row is looked at. It is nil where the ledger
	// does not speak for the table, because rows came or went past cqrsync, or cannot: a model with
	// a filter, a key of several columns, a database that has no cheap way to tell.
	Listing(ctx context.Context, model string, pageSize int) (iter.Seq2[Pairs, error], error)
	// Lookup returns the instances with the given primary keys, one for each key in their order,
	// without Data. PK is nil where there is none, or none that is sent. A key that no row of the
	// table can have is an *outbox.KeyError.
	//
	// A key may be spelled as a replica stores it: the database decides which row it is, by the
	// type of the column, and PK is how the master spells it.
	Lookup(ctx context.Context, model string, pks []json.RawMessage) ([]Instance, error)
	// Own returns the database with the outbox's tables.
	Own() *db.Database
	// Models returns the CQRS ids of the registered models, in any order.
	Models() []string
	// States returns what replicas are to know of the given keys, as ledgers spell them, one for
	// each in their order: with Data where the row is sent.
	States(ctx context.Context, model string, keys []string) ([]State, error)
	// Speaks says that the ledger of a model has what its table has, and that all of it is sent:
	// then Digest and Claims read the ledger alone. false may mean that there is no cheap way to
	// tell.
	Speaks(ctx context.Context, model string) (bool, error)
	// Unknown reads the instances that the ledger does not know, or has as deleted, page by page.
	Unknown(ctx context.Context, model string, s Selection) iter.Seq2[[]Instance, error]
	// AdoptUnknown gives those their ledger row, and returns how many there were. bad is called for
	// each row that cannot be sent.
	AdoptUnknown(ctx context.Context, model string, bad func(pk json.RawMessage, err error)) (
		int, error)
	// Digest returns the digest of what is sent in a part of the ledger.
	Digest(ctx context.Context, model string, p Portion) (ledger.Digest, error)
	// Claims returns what is sent in a part of the ledger, and the last key that it has there. more
	// says that its limit ended it.
	Claims(ctx context.Context, model string, p Portion) (
		claims []Claim, last string, more bool, err error)
	// Adopt takes over the revisions of a table that a Django master wrote: from its columns
	// cqrs_revision and cqrs_updated into the ledger. So the first write that is captured continues
	// them, and replicas take it. It is for when the Django master writes no more, while this
	// service does or before it does; again does no harm, and goes on where it was interrupted.
	//
	// The two columns are not read otherwise, and no message carries them: what stands there under
	// their names is the ledger's.
	Adopt(ctx context.Context, model string, o AdoptOptions) (Adopted, error)
}

// Instance is one entity as its replicas are to know it.
type Instance struct {
	// PK is the primary key as the wire has it, Key the text by which ledgers know it.
	PK  json.RawMessage
	Key string
	// Revision and Updated are the ledger's: what the newest message of the key said, or is about
	// to say.
	Revision int64
	Updated  time.Time
	// Buried says that the ledger holds a tombstone, though the row is there: it came past cqrsync.
	Buried bool
	// Data is instance_data without revision and time (see envelope.Stamp); nil where it was not
	// asked for.
	Data json.RawMessage
}

// State is what replicas are to know of a key.
type State struct {
	// Instance has no Data where no row is sent under the key.
	Instance
	// Deleted says that the ledger holds a tombstone, under Revision and Updated.
	Deleted bool
}

// Portion is a part of the ledger in the order of the bytes of its keys: those after After up to
// To, where an empty end is open, and no more than Limit, where that is not zero, counting those
// that are not sent.
type Portion struct {
	After, To string
	Limit     int
	// Speaks says that Speaks said so.
	Speaks bool
	// Content, if set, makes a text of the data of an instance, which is compared, too.
	Content func(Instance) (string, error)
}

// Unreadable is the content of a row that cannot be read.
const Unreadable = "?"

// Claim is what the master says of a key that it sends.
type Claim struct {
	Key      string
	Revision int64
	Content  string
}

// Selection says which instances of a model to read.
type Selection struct {
	// Where narrows the query; nil takes all. The query's model is the registered one.
	Where func(*bun.SelectQuery) *bun.SelectQuery
	// After is the primary key, as JSON, of the instance to go on after; nil begins with the first.
	After json.RawMessage
	// PageSize is how many rows are read, and held in memory, at once. Default: 1000. Of large rows
	// Instances reads fewer: some megabytes, or one row.
	PageSize int
	// Bad, if set, is called for each row that cannot be sent, and the others go on: a value that
	// the wire has no form for, a key that is none, a Serializer's error. pk is as the wire would
	// have it. Without Bad the first such row ends the iteration.
	Bad func(pk json.RawMessage, err error)
}

// Pairs are a page of keys with their revisions in the words of a line of a diff, but for its outer
// brackets: 1,0],[2,5.
type Pairs = ledger.Pairs

// AdoptOptions are those of Adopt. The zero value is ready to use.
type AdoptOptions struct {
	// PageSize is how many rows are adopted in one transaction. Default: 1000.
	PageSize int
	// Reached, if set, is called after each transaction with how many rows it was about. Its error
	// ends the operation.
	Reached func(rows int) error
}

// Adopted is what Adopt found and did.
type Adopted struct {
	// Rows were looked at. Of Taken ones the ledger has now the revision of their column; it knew
	// them not, or only an older one.
	Rows, Taken int64
	// Sent rows were written through cqrsync before they were adopted, so with revisions that
	// replicas take for old. They were given newer ones, and their state is sent again.
	Sent int64
}
