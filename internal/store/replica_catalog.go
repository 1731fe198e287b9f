package store

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// TableShape is what the database's catalog knows of a table that a replica writes.
type TableShape struct {
	// Name is the table's as other shapes' References call it.
	Name string
	// Required are the columns that have neither NULL nor a default.
	Required []string
	// References are the foreign keys of one column.
	References []Reference
	// OtherUnique says that values beside the primary key must be unique. It is asked only where an upsert cannot be
	// told which key it may meet.
	OtherUnique bool
	// Types are those of the columns, without their limits, where rows can be written as arrays.
	Types map[string]string
}

// Reference is a foreign key of one column.
type Reference struct {
	Column string
	// Table and Target are what the column points to.
	Table, Target string
}

// TableShape reads the catalog about a table of the service's own: quoted as in SQL, and by its bare name.
func (s *Store) TableShape(ctx context.Context, db bun.IDB, quoted, name string) (shape TableShape, err error) {
	q := s.dialect.catalog()
	argument := name
	if q.byQuotedName {
		argument = quoted
	}
	shape.Name = name
	if q.name != "" {
		err = db.NewRaw(q.name, argument).Scan(ctx, &shape.Name)
	}
	if err == nil {
		err = db.NewRaw(q.required, argument).Scan(ctx, &shape.Required)
	}
	if err == nil {
		err = db.NewRaw(q.references, argument).Scan(ctx, &shape.References)
	}
	if err == nil && q.otherUnique != "" {
		err = db.NewRaw(q.otherUnique, argument).Scan(ctx, &shape.OtherUnique)
	}
	if err == nil && q.types != "" {
		shape.Types, err = columnTypes(ctx, db, q.types, argument)
	}
	if err != nil {
		return TableShape{}, fmt.Errorf("read the catalog about table %s: %w", name, err)
	}
	return shape, nil
}

// catalogQueries take a table's name.
type catalogQueries struct {
	byQuotedName         bool
	required, references string

	name, otherUnique, types string // may be empty
}

func columnTypes(ctx context.Context, db bun.IDB, query, table string) (map[string]string, error) {
	var columns []struct{ Name, Type string }
	if err := db.NewRaw(query, table).Scan(ctx, &columns); err != nil {
		return nil, err
	}
	types := make(map[string]string, len(columns))
	for _, c := range columns {
		types[c.Name] = c.Type
	}
	return types, nil
}

func (postgres) catalog() catalogQueries {
	return catalogQueries{
		byQuotedName: true,
		name:         `SELECT coalesce(to_regclass(?)::text, '')`,
		required: `
			SELECT attname FROM pg_attribute
			WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef
				AND attidentity = '' AND attgenerated = '' ORDER BY attnum`,
		references: `
			SELECT a.attname AS "column", c.confrelid::regclass::text AS "table", b.attname AS target
			FROM pg_constraint AS c
				JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
				JOIN pg_attribute AS b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
			WHERE c.conrelid = to_regclass(?) AND c.contype = 'f' AND array_length(c.conkey, 1) = 1
			ORDER BY a.attnum`,
		types: `
			SELECT attname AS name, format_type(atttypid, -1) AS type FROM pg_attribute
			WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped`,
	}
}

func (mysql) catalog() catalogQueries {
	return catalogQueries{
		required: `
			SELECT column_name FROM information_schema.columns
			WHERE table_schema = database() AND table_name = ? AND is_nullable = 'NO' AND column_default IS NULL
				AND extra NOT LIKE '%auto_increment%' AND is_generated = 'NEVER' ORDER BY ordinal_position`,
		references: "SELECT min(column_name) AS `column`, min(referenced_table_name) AS `table`, " + `
				min(referenced_column_name) AS target
			FROM information_schema.key_column_usage
			WHERE table_schema = database() AND table_name = ? AND referenced_table_name IS NOT NULL
			GROUP BY constraint_name HAVING count(*) = 1`,
		otherUnique: `
			SELECT EXISTS (SELECT 1 FROM information_schema.statistics
				WHERE table_schema = database() AND table_name = ? AND non_unique = 0 AND index_name <> 'PRIMARY')`,
	}
}

func (sqlite) catalog() catalogQueries {
	return catalogQueries{
		required: `SELECT name FROM pragma_table_info(?) WHERE "notnull" AND dflt_value IS NULL ORDER BY cid`,
		references: `
			SELECT min(f."from") AS "column", f."table" AS "table",
				coalesce(min(f."to"), (SELECT name FROM pragma_table_info(f."table") WHERE pk = 1)) AS target
			FROM pragma_foreign_key_list(?) AS f GROUP BY f.id, f."table" HAVING count(*) = 1`,
	}
}
