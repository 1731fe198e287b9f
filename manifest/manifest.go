// Package manifest lets the stock binary work on plain tables without Go code: a cqrsync.yaml names
// the tables, the database's catalog says of what types their columns are, and the package
// registers them with an outbox or a replica as if a service had written the structs.
//
//	queue: webhooks            # replicas: the name of this service
//	models:
//	  order:                   # the CQRS id
//	    table: orders
//	    key: id                # or [tenant, number]; the table's primary key if left out
//	    columns: [id, status]  # all if left out
//	    map: {state: status}   # column: what messages call it, where that differs
//	    types: {id: uuid}      # column: what it holds, where its type (char(32)) does not say so
//	    nan_as_null: true      # NaN and infinities of floats: null (default: as Python has them)
//	    filter: status <> 'draft' # masters: only these rows are sent; one that leaves is a DELETE
//	    relations:             # masters: rows of other tables, nested in the message
//	      lines: {table: order_lines, key: order_id, columns: [sku, qty], order: pos, many: true}
//	    track: [status]        # masters with triggers: the values before a change travel along
//	    touch: {lines: order_id} # masters with triggers: a row of lines belongs to an order
//	    every_revision: true   # masters: no revision is dropped for a newer one
//	    truncate: deletes      # masters with triggers: TRUNCATE deletes all copies; default: refused
//	    constants: {shop: uk}  # replicas: column: its value in all rows, if models share the table
//	    verify: content        # replicas: columns are compared with the master's, too
//
// What needs code (serializers, relations of several steps, handlers) is registered in a binary of
// one's own.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/cqrsync/cqrsync/envelope"
)

// Manifest is a cqrsync.yaml.
type Manifest struct {
	// Queue is the name of the replica service. Masters need none.
	Queue string `yaml:"queue"`
	// Backfill is if_empty where a replica asks its master, at its first start, for the models that it
	// has nothing of. Default: none.
	Backfill string `yaml:"backfill"`
	// Models are the tables by CQRS id.
	Models map[string]Model `yaml:"models"`
}

// Model is one table.
type Model struct {
	// Table is its name, with its schema where that is not on the search path.
	Table string `yaml:"table"`
	// Key are the columns by which a row is known; a replica's table needs a unique index on
	// them. Default: the primary key.
	Key Names `yaml:"key"`
	// Columns are those that are sent or kept. The key always is. Default: all.
	Columns Names `yaml:"columns"`
	// Map says which field of the message a column is, where the names differ: on a replica the field
	// that it holds, on a master the one that it is sent as.
	Map map[string]string `yaml:"map"`
	// Types says what columns hold where their type does not: uuid, for a uuid in a char(32), as
	// Django keeps it on SQLite and older MariaDBs, in binary(16) or in a text.
	Types map[string]string `yaml:"types"`
	// NaNAsNull sends null for NaN and the infinities, or stores NULL for them.
	NaNAsNull bool `yaml:"nan_as_null"`
	// Constants are columns of a replica that have one value in every row of the model. They say whose
	// a row is, where several models are kept in one table, and may be part of its key.
	Constants map[string]any `yaml:"constants"`

	// Verify is for replicas: content where the columns are compared with the master's, too, so that
	// changes behind the replica's back are found. It costs both sides as much as reading all rows.
	// Default: revisions.
	Verify string `yaml:"verify"`

	// Filter is for masters: a condition in SQL on the columns of the row, which may be named t. Rows
	// for which it is not true are not sent, and one that leaves it is a DELETE. It must depend on the
	// row alone. Default: all rows are sent.
	Filter string `yaml:"filter"`

	// Relations are for masters: rows of other tables that are nested in the model's messages, by the
	// names that messages call them. A write of such a row sends the entity, where triggers stand
	// (relay capture install).
	Relations map[string]Relation `yaml:"relations"`

	// What follows is for masters whose tables have triggers (relay capture install).

	// Track are columns whose values before the transaction travel along
	// (previous_data). It implies EveryRevision.
	Track Names `yaml:"track"`
	// Touch names tables whose rows belong to the model's, and their columns that hold its key: a
	// write of such a row sends the entity.
	Touch map[string]Names `yaml:"touch"`
	// EveryRevision sends every revision. Default: the relay drops what a newer one replaces.
	EveryRevision bool `yaml:"every_revision"`
	// Truncate is "deletes" where a TRUNCATE is to delete all copies. Default: PostgreSQL refuses it.
	Truncate string `yaml:"truncate"`
}

const truncateDeletes = "deletes"

const (
	verifyContent   = "content"
	verifyRevisions = "revisions"
)

// VerifiedContent are the models of which the columns are compared with the
// master's (Model.Verify), in order.
func (m *Manifest) VerifiedContent() (models []string) {
	for _, id := range slices.Sorted(maps.Keys(m.Models)) {
		if m.Models[id].Verify == verifyContent {
			models = append(models, id)
		}
	}
	return models
}

// IfEmpty has a replica ask its master for the models that it has nothing of (Manifest.Backfill).
const IfEmpty = "if_empty"

// Names is a list that may be written as a single name.
type Names []string

// UnmarshalYAML reads a name or a list of names.
func (n *Names) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*n = Names{node.Value}
		return nil
	}
	return node.Decode((*[]string)(n))
}

// Read reads a file.
func Read(file string) (*Manifest, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the models: %w", err)
	}
	m, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// Parse reads the text of a file and checks what needs no database, all of it at once.
func Parse(text []byte) (*Manifest, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var m Manifest
	if err := d.Decode(&m); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(inYAML(err), twoSteps(text))
	}
	var errs []error
	if m.Backfill != "" && m.Backfill != IfEmpty && m.Backfill != "none" {
		errs = append(errs, fmt.Errorf("backfill: %q, want %s or none", m.Backfill, IfEmpty))
	}
	if len(m.Models) == 0 {
		errs = append(errs, errors.New(
			`models: none, want for example "models: {order: {table: orders}}"`))
	}
	for _, id := range slices.Sorted(maps.Keys(m.Models)) {
		for _, err := range m.Models[id].check(id) {
			errs = append(errs, fmt.Errorf("models: %s: %w", id, err))
		}
	}
	return &m, errors.Join(errs...)
}

var (
	columnName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	tableName  = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*$`)
)

func (m Model) check(id string) []error {
	var errs []error
	if err := envelope.CheckModel(id); err != nil {
		errs = append(errs, err)
	}
	if !tableName.MatchString(m.Table) {
		errs = append(errs, fmt.Errorf(
			"table: %q, want a name of letters, digits and _, or schema.name", m.Table))
	}
	errs = append(errs, m.checkColumnNames()...)
	if m.Verify != "" && m.Verify != verifyContent && m.Verify != verifyRevisions {
		errs = append(errs, fmt.Errorf("verify: %q, want %s or %s",
			m.Verify, verifyContent, verifyRevisions))
	}
	for _, table := range slices.Sorted(maps.Keys(m.Touch)) {
		if !tableName.MatchString(table) {
			errs = append(errs, fmt.Errorf("touch: %q, want the name of a table", table))
		}
		for _, name := range m.Touch[table] {
			if !columnName.MatchString(name) {
				errs = append(errs, fmt.Errorf(
					"touch: %s: %q, want a name of letters, digits and _", table, name))
			}
		}
	}
	errs = append(errs, m.checkRelations()...)
	if m.Truncate != "" && m.Truncate != truncateDeletes {
		errs = append(errs, fmt.Errorf(
			"truncate: %q, want deletes, or nothing: then it is refused", m.Truncate))
	}
	for _, column := range slices.Sorted(maps.Keys(m.Constants)) {
		switch value := m.Constants[column].(type) {
		case string, int, int64, uint64, bool:
		default:
			errs = append(errs, fmt.Errorf(
				"constants: %s: %v, want a text, a whole number, true or false", column, value))
		}
		if _, mapped := m.Map[column]; mapped {
			errs = append(errs, fmt.Errorf("constants: %s stands under map, too", column))
		}
	}
	return errs
}

// checkColumnNames checks the columns that the model names, and that none of them stands there
// twice.
func (m Model) checkColumnNames() []error {
	var errs []error
	for field, names := range map[string][]string{
		"key": m.Key, "columns": m.Columns, "map": slices.Sorted(maps.Keys(m.Map)),
		"types":     slices.Sorted(maps.Keys(m.Types)),
		"track":     m.Track,
		"constants": slices.Sorted(maps.Keys(m.Constants)),
	} {
		for _, name := range names {
			if !columnName.MatchString(name) {
				errs = append(errs, fmt.Errorf("%s: %q, want a name of letters, digits and _", field, name))
			}
		}
	}
	for field, names := range map[string]Names{"key": m.Key, "columns": m.Columns} {
		for i, name := range names {
			if slices.Contains(names[:i], name) {
				errs = append(errs, fmt.Errorf("%s: %s stands there twice", field, name))
			}
		}
	}
	return errs
}
