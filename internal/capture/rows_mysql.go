package capture

import (
	"context"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
)

type mysqlRows struct{}

func (mysqlRows) quote(name string) string {
	return "`" + strings.ReplaceAll(name, "`", "``") + "`"
}

func (mysqlRows) table(name string) []string {
	return []string{`CREATE TABLE IF NOT EXISTS ` + name + " (\n" +
		"\tid bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,\n" +
		"\tsession bigint NOT NULL,\n" +
		"\tmodel varchar(200) NOT NULL,\n" +
		"\t`key` varchar(512) NOT NULL,\n" +
		"\top char(1) NOT NULL,\n" +
		"\tnoted_at timestamp(6) NOT NULL DEFAULT current_timestamp(6),\n" +
		"\tKEY session (session)\n" +
		") ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"}
}

func (mysqlRows) text(column string) string { return "CAST(" + column + " AS CHAR)" }

// json escapes two characters that MariaDB leaves and Go does not.
func (m mysqlRows) json(c Column, column string) string {
	if c.Kind == Integer {
		return m.text(column)
	}
	return "REPLACE(REPLACE(JSON_QUOTE(" + m.text(column) + "), " +
		"CONVERT(0xE280A8 USING utf8mb4), CONCAT(CHAR(92), 'u2028')), " +
		"CONVERT(0xE280A9 USING utf8mb4), CONCAT(CHAR(92), 'u2029'))"
}

func (mysqlRows) concat(parts ...string) string {
	return "CONCAT(" + strings.Join(parts, ", ") + ")"
}

func (mysqlRows) isUUID(c Column, column string) string {
	switch c.Kind {
	case TextUUID:
		return "CAST(" + column + " AS BINARY) RLIKE '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
	case HexUUID:
		return "CAST(" + column + " AS BINARY) RLIKE '^[0-9a-f]{32}$'"
	case BinaryUUID:
		return "length(" + column + ") = 16"
	}
	return ""
}

func (mysqlRows) refuse(unless, message string) string {
	return "IF NOT (" + unless + ") THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = " +
		literal(message) + "; END IF; "
}

func (mysqlRows) session() string { return "CONNECTION_ID()" }

func (mysqlRows) same(a, b string) string {
	return "CAST(" + a + " AS BINARY) <=> CAST(" + b + " AS BINARY)"
}

// insert is no INSERT … SELECT: that locks the numbers of the table until the writer's statement
// ends.
func (mysqlRows) insert(into string, values, conditions []string) string {
	text := into + " VALUES (" + strings.Join(values, ", ") + "); "
	if conditions != nil {
		text = "IF " + strings.Join(conditions, " AND ") + " THEN " + text + "END IF; "
	}
	return text
}

func (m mysqlRows) create(name, when, event, table, body string) []string {
	return []string{"CREATE OR REPLACE TRIGGER " + m.quote(name) + " " + when + " " + event +
		" ON " + table + " FOR EACH ROW " + body}
}

func (mysqlRows) texts() string {
	return "SELECT event_object_table, trigger_name, action_statement " +
		"FROM information_schema.triggers WHERE trigger_schema = database()"
}

func split(table string) (schema, name string) {
	schema, name, qualified := strings.Cut(table, ".")
	if !qualified {
		return "", table
	}
	return schema, name
}

func (mysqlRows) exists(ctx context.Context, db *bun.DB, table string) error {
	schema, name := split(table)
	var engine *string
	err := db.DB.QueryRowContext(ctx, `SELECT max(engine) FROM information_schema.tables
		WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ?
			AND table_type = 'BASE TABLE'`, schema, name).Scan(&engine)
	switch {
	case err != nil:
		return fmt.Errorf("ask the catalog for table %s: %w", table, err)
	case engine == nil:
		return fmt.Errorf("table %s does not exist (triggers stand on tables, not on views)", table)
	case !strings.EqualFold(*engine, "InnoDB"):
		return fmt.Errorf("table %s has the engine %s, which knows no transactions: "+
			"what is written and what is noted could part", table, *engine)
	}
	return nil
}

// refuses a table whose rows a foreign key deletes or changes: MariaDB tells no trigger of those.
func (mysqlRows) refuses(ctx context.Context, db *bun.DB, table, owner string) error {
	schema, name := split(table)
	_, owner = split(owner)
	var key *string
	err := db.DB.QueryRowContext(ctx, `SELECT max(constraint_name)
		FROM information_schema.referential_constraints
		WHERE constraint_schema = coalesce(nullif(?, ''), database()) AND table_name = ?
		AND referenced_table_name <> ?
		AND (delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
			OR update_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT'))`,
		schema, name, owner).Scan(&key)
	if err == nil && key != nil {
		err = fmt.Errorf("foreign key %s of table %s deletes or changes its rows by itself, "+
			"and MariaDB tells no trigger of it: make it RESTRICT, and let the application "+
			"delete the rows", *key, table)
	}
	return err
}

func (mysqlRows) others(context.Context, *bun.DB, *rowsEngine, Model, target) ([]wanted, error) {
	return nil, nil
}
