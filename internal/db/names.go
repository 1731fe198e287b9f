package db

import (
	"errors"
	"fmt"
	"regexp"
)

// Names says where the tables are.
type Names struct {
	// Schema qualifies every table. Empty means the connection's search path.
	Schema string
	// Prefix stands before every table name. Empty by default.
	Prefix string
}

// Side is one of the two sets of tables.
type Side string

// The two sides. A service that is a master and a replica has both in one database.
const (
	Outbox  Side = "outbox"
	Replica Side = "replica"
)

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckFor checks that the names are safe to stand in SQL text of a dialect.
func (n Names) CheckFor(d Dialect) error {
	err := n.Validate()
	if n.Schema != "" && !d.HasSchemas() {
		return errors.Join(err,
			fmt.Errorf("schema %q: SQLite has no schemas, use a table prefix or a file of its own",
				n.Schema))
	}
	return err
}

// Validate checks the names as far as no database need be known.
func (n Names) Validate() error {
	var errs []error
	if n.Schema != "" && !identifier.MatchString(n.Schema) {
		errs = append(errs, fmt.Errorf("schema %q: use letters, digits and underscores", n.Schema))
	}
	if n.Prefix != "" && !identifier.MatchString(n.Prefix) {
		errs = append(errs, fmt.Errorf("table prefix %q: use letters, digits and underscores",
			n.Prefix))
	}
	return errors.Join(errs...)
}

// Table returns the quoted, qualified name of one of cqrsync's tables.
func (n Names) Table(quote, name string) string {
	quoted := quote + n.Prefix + name + quote
	if n.Schema == "" {
		return quoted
	}
	return quote + n.Schema + quote + "." + quoted
}

// WakeChannel is an expression for the name of the channel on which writers tell relays that there
// is something to publish: one for each outbox of a PostgreSQL database. It is null where there is
// no outbox.
func (n Names) WakeChannel() string {
	return "'cqrsync_outbox_' || to_regclass('" + n.Table(`"`, "outbox_messages") + "')::oid"
}
