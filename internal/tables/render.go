package tables

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"text/template"

	"github.com/uptrace/bun/migrate"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/migrations"
)

// Print returns the SQL of one side for people who apply it with their own tool, as input for psql
// or sqlite3. It marks itself as applied, so that a later Migrate goes on from there. dialectName
// is postgres, mysql or sqlite.
func Print(dialectName string, side db.Side, names db.Names) (string, error) {
	d, err := db.DialectNamed(dialectName)
	if err != nil {
		return "", err
	}
	if err := names.CheckFor(d); err != nil {
		return "", err
	}
	data := templateData{names, dialectFor(d)}
	files, err := files(migrations.FS, data.dialect, side)
	if err != nil {
		return "", err
	}
	paths, err := fs.Glob(files, "*.up.sql") // sorted, and so in order
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out,
		"-- cqrsync, %s tables for %s. Apply in one transaction, stopping at the first error.\n",
		side, d.Name())
	fmt.Fprintf(&out, "%s;\n", data.createApplied(side))
	for _, path := range paths {
		sql, err := render(files, path, data)
		if err != nil {
			return "", err
		}
		number, _, _ := strings.Cut(path, "_")
		fmt.Fprintf(&out, "\n-- %s\nINSERT INTO %s (name, group_id) VALUES ('%s', 1);\n%s",
			path, data.Table(appliedTable(side)), number, strings.ReplaceAll(sql, "--bun:split\n",
				""))
	}
	return out.String(), nil
}

func render(files fs.FS, path string, data templateData) (string, error) {
	text, err := fs.ReadFile(files, path)
	if err != nil {
		return "", err
	}
	parsed, err := template.New(path).Parse(string(text))
	if err != nil {
		return "", err
	}
	var sql bytes.Buffer
	if err := parsed.Execute(&sql, data); err != nil {
		return "", err
	}
	return sql.String(), nil
}

// templateData is what the migration files see.
type templateData struct {
	names   db.Names
	dialect dialect
}

// Table returns the quoted name of a table.
func (t templateData) Table(name string) string { return t.names.Table(t.dialect.Quote(), name) }

// Raise is the rule of the ledger; row stands before its columns. A change of the rule takes a
// migration that makes the functions anew: what was applied keeps the text of its time.
func (t templateData) Raise(row string) string { return ledger.Raise(t.dialect, row) }

// Follows is the ledger's condition for a message that follows what was sent last.
func (t templateData) Follows(row string) string { return ledger.Follows(row) }

// createApplied is the table of marks with the columns that bun reads, and name unique.
func (t templateData) createApplied(side db.Side) string {
	return "CREATE TABLE IF NOT EXISTS " + t.Table(appliedTable(side)) + " " +
		t.dialect.appliedColumns()
}

func appliedTable(side db.Side) string { return string(side) + "_migrations" }

func files(all fs.FS, d dialect, side db.Side) (fs.FS, error) {
	if side != db.Outbox && side != db.Replica {
		return nil, fmt.Errorf("side %q: want %s or %s", side, db.Outbox, db.Replica)
	}
	return fs.Sub(all, d.Name()+"/"+string(side))
}

func discover(all fs.FS, d dialect, side db.Side) (*migrate.Migrations, error) {
	files, err := files(all, d, side)
	if err != nil {
		return nil, err
	}
	set := migrate.NewMigrations()
	if err := set.Discover(files); err != nil {
		return nil, err
	}
	return set, nil
}
