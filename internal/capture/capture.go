// Package capture makes the triggers by which a database itself notices what is written to a table,
// by whomever and however.
//
// A trigger only marks: it notes the key of each row that a statement wrote. On PostgreSQL a
// deferred trigger turns the marks into messages at the commit, one per key and transaction, with
// the state at the commit (postgres_flush.go). MariaDB and SQLite have no such trigger: their marks
// are committed with the rows, and a sweep in Go makes the messages.
//
// The package writes SQL and runs it. It knows neither manifests nor Go models: whoever calls it
// says in a [Model] what a message holds.
package capture

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Version is the generation of the SQL that this package writes. A database that has an older one
// works on, and is told of by [Check].
const Version = 1

// Model says which table is captured, and what its messages hold.
type Model struct {
	// ID is the CQRS id.
	ID string
	// Table is a name, or schema.name.
	Table string
	// Key are the columns of the key, in the order that the key has them. None may be NULL.
	Key []Column
	// Fields are what a SAVE holds, in this order.
	Fields []Field
	// Relations are nested rows, behind the fields.
	Relations []Relation
	// Filter is a condition in SQL on the row, whose columns stand under t. Empty is all rows.
	Filter string
	// KeepsCopies makes a row that leaves the filter send nothing; else it sends a DELETE.
	KeepsCopies bool
	// Track are columns whose values before the transaction travel along.
	Track []Field
	// Touch are other tables whose rows belong to the model's.
	Touch []Touch
	// Everything makes each revision leave; else the relay drops what a newer one replaces.
	Everything bool
	// Truncates says that a TRUNCATE deletes all rows of the table. Default: it is refused.
	Truncates bool
	// Swept says that SQL cannot write the messages: Go code does, after the commit.
	Swept bool
}

// Column is a column of a table.
type Column struct {
	Name string
	Kind Kind
	// Array says that it holds a list of Kind.
	Array bool
	// Null says that it may be NULL.
	Null bool
	// Padded says that it is PostgreSQL's char(n), which fills texts up with spaces.
	Padded bool
}

// Field is a column and what the message calls it.
type Field struct {
	Name   string
	Column Column
	// Finite sends null for NaN and the infinities.
	Finite bool
}

// Relation are rows of another table that a message holds.
type Relation struct {
	// Name is what the message calls them.
	Name string
	// Many makes a list; else it is one object, or null.
	Many bool
	// Table is a name, or schema.name; Columns are those of it that hold the key.
	Table   string
	Columns []string
	Fields  []Field
	// Order are the columns by which the list is ordered.
	Order []string

	quoted string // the table as SQL has it
}

// Touch is a table whose rows belong to the model's rows.
type Touch struct {
	// Table is a name, or schema.name.
	Table string
	// Columns hold the key, in its order. A row in which one is NULL belongs to nobody.
	Columns []Column
}

// Kind is what a column's values are on the wire.
type Kind int

// What a column may hold.
const (
	Text Kind = iota
	PaddedText
	Printed // a type of its own that is a text on the wire
	Integer
	Bool
	Float
	Decimal
	Moment
	Date
	JSON
	Bytes
	UUID
	// A uuid in a column of another type: with hyphens, as 32 digits, as 16 bytes.
	TextUUID
	HexUUID
	BinaryUUID
)

// short is a name for what belongs to a model, or to a model and a table: part of the names of
// triggers and functions, which may have 63 bytes.
func short(parts ...string) string {
	sum := md5.Sum([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])[:10]
}

// digest tells one text of a model's SQL from another.
func digest(statements []string) string {
	sum := sha256.Sum256([]byte(strings.Join(statements, "\n")))
	return hex.EncodeToString(sum[:])[:16]
}

// literal is a text as SQL has it. It has no backslash to speak of: identifiers and ids have none.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// KnownKeys says which types a column of a key may have.
const KnownKeys = "integers, texts, uuids, dates and decimals (of the last two none on SQLite)"

// isKey says that a column's text is one and the same for a value, in Go and in SQL.
func (c Column) isKey() error {
	switch c.Kind {
	case Integer, Text, PaddedText, UUID, TextUUID, HexUUID, BinaryUUID, Date, Decimal:
		if !c.Array {
			return nil
		}
	}
	return fmt.Errorf("column %s is part of the key, and triggers know keys of %s only: "+
		"leave the table to the capture of a Go service", c.Name, KnownKeys)
}
