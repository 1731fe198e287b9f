package replica

import (
	"encoding/json"

	"github.com/cqrsync/cqrsync/envelope"
)

// Option changes how one model is read.
type Option func(*binding)

// Rename reads a column from a message field of another name. A Django master sends the foreign key
// author_id as author: Rename("author", "author_id").
func Rename(field, column string) Option {
	return func(b *binding) { b.renamed[column] = field }
}

// Constant fills a column of a mirror with the same value in every row that is saved. A value that
// is a text, an integer or a boolean also says whose a row is: rows with another one are not the
// model's, so several models can share a table. The column may be part of the primary key.
func Constant(column string, value any) Option {
	return func(b *binding) {
		b.fixed[column] = func(Fields) (any, error) { return value, nil }
		b.constants[column] = value
	}
}

// Own names columns of a mirror that the service fills by itself. Without it, a column for which
// messages carry nothing is logged once, and a difference to every diff of the columns, because the
// master may have renamed its field.
func Own(columns ...string) Option {
	return func(b *binding) {
		for _, column := range columns {
			b.own[column] = true
		}
	}
}

// Computed fills a column of a mirror with what compute makes of a message. compute is called again
// when the message is tried again; its error is permanent.
func Computed(column string, compute func(Fields) (any, error)) Option {
	return func(b *binding) {
		b.fixed[column] = compute
		delete(b.constants, column)
	}
}

type computation func(Fields) (any, error)

// Fields is a message as Computed sees it: the instance by field name, each value JSON as it came.
type Fields struct {
	Message *envelope.Message
	Values  map[string]json.RawMessage
}

// Required refuses saves that lack one of the fields, or have null there, with an error that names
// them all. Without it a mirror misses only what its table insists on, and a handler nothing.
func Required(fields ...string) Option {
	return func(b *binding) { b.required = append(b.required, fields...) }
}

// Children writes a has-many relation of a mirror, which messages carry as a list of objects, into
// the table of its rows: a save that has the list makes the table's rows of this parent exactly
// those of the list, a delete deletes them. relation is the Go name of the field or bun's (Lines,
// lines).
func Children(relation string) Option {
	return func(b *binding) { b.childNames = append(b.childNames, relation) }
}

// OnlyDirectSyncs ignores everything but what was sent to this queue alone (relay sync --queue):
// for a model whose changes the replica does not follow, and that it is given now and then. A
// django-cqrs master says for whom a message is by its routing key alone (cqrs.<queue>.<cqrs_id>),
// which transport/amqp reads.
func OnlyDirectSyncs() Option {
	return func(b *binding) { b.direct = true }
}

// WithRetry gives the model a retry policy of its own. Its zero fields are those of Config.Retry.
func WithRetry(policy RetryPolicy) Option {
	return func(b *binding) { b.retry = policy }
}
