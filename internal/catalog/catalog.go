// Package catalog asks the database's catalog about the service's own tables: what their columns
// hold, what the database does with their rows beyond the statements, and what tells rows apart. It
// knows one table of cqrsync's, by name.
package catalog

import "github.com/cqrsync/cqrsync/internal/db"

// Catalog asks one database. It is safe for concurrent use.
type Catalog struct {
	dialect dialect
	// messages is the quoted name of outbox_messages.
	messages string
}

// New returns the catalog of a database.
func New(d *db.Database) *Catalog {
	return &Catalog{db.Choose[dialect](d, postgres{}, mariadb{}, sqlite{}),
		string(d.Table("outbox_messages"))}
}

// dialect are the queries of a catalog.
type dialect interface {
	// plainColumns is a query for PlainColumns, or empty.
	plainColumns() string
	// traits is the query of Traits.
	traits(table string) (query string, args []any)
	rowVersion() string
	// lastInserted is the condition of LastInserted.
	lastInserted(table, column, sqlColumn string) string
	// kin is the query of Kin.
	kin(table string) (query string, args []any)
	// behaviour asks the catalog what happens to a table beyond the statements.
	behaviour() behaviourQueries
	// numbers lists the columns of the table ?0 that make numbers of texts, as rows of three texts:
	// the name, nothing, the declared type. Empty where none do.
	numbers() string
	// catalog are the queries of TableShape.
	catalog() catalogQueries
}

type (
	postgres struct{}
	mariadb  struct{}
	sqlite   struct{}
)
