package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/migrate"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/migrations"
)

// Migrate creates or upgrades the tables of one side and returns the migrations it applied itself.
//
// It is safe when several processes start at once, and through a transaction-pooling proxy: a migration's first
// statement, in the migration's own transaction, writes its mark, and the mark's unique name is the lock. The second
// one waits there, fails when the first commits, and goes on with the next migration. A crash at any moment leaves
// either both, tables and mark, or neither.
//
// Where making a table commits (MariaDB), the mark comes last instead, and the migrations are written so that they may
// run again, or at once: what is there already is left as it is.
//
// Where there is nothing to do it only reads, so that a service may call it that has no right to make tables.
func (s *Store) Migrate(ctx context.Context, side Side) (applied []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("migrate %s tables: %w", side, err)
		}
	}()
	pending, err := s.pendingOnceOpen(ctx, side)
	if err != nil || len(pending) == 0 {
		return nil, err
	}
	if err := s.makeApplied(ctx, side); err != nil {
		return nil, err
	}
	set, err := discover(s.migrations, s.dialect, side)
	if err != nil {
		return nil, err
	}
	for _, m := range set.Sorted() {
		if !slices.Contains(pending, m.String()) {
			continue
		}
		own, err := s.applyInTime(ctx, side, m)
		if err != nil {
			return applied, fmt.Errorf("%s: %w", m.String(), err)
		}
		if own {
			applied = append(applied, m.String())
		}
	}
	return applied, nil
}

// applyInTime applies a migration and tries again for as long as others hold its locks. Who writes to a table waits behind
// whoever waits to change it, so it waits for a short time, and rarely. own is false where another process was first.
func (s *Store) applyInTime(ctx context.Context, side Side, m migrate.Migration) (own bool, err error) {
	for pause := db.MinPause; ; pause = min(2*pause, db.MaxPause) {
		err := s.apply(ctx, side, m)
		if err == nil {
			return true, nil
		}
		if done, pendingErr := s.isApplied(ctx, side, m); pendingErr == nil && done {
			return false, nil
		}
		if ctx.Err() != nil || !passing(err) && !numberLocked(err) {
			return false, err
		}
		s.sayUnknown(m.Name, err)
		if db.Rest(ctx, pause) != nil {
			return false, err
		}
	}
}

// numberLocked is MariaDB's answer to a row of the table of marks while others write theirs: the lock on its numbers was not
// to be had in time.
func numberLocked(err error) bool { return err != nil && strings.Contains(err.Error(), "Error 1467 (") }

// sayUnknown says that something waits where the database did not tell for whom.
func (s *Store) sayUnknown(what string, err error) {
	if db.LockTimedOut(err) && db.HoldersOf(err) == db.UnknownHolder {
		s.SayWait(what, db.HoldersOf(err))
	}
}

func (s *Store) isApplied(ctx context.Context, side Side, m migrate.Migration) (bool, error) {
	pending, err := s.Pending(ctx, side)
	return !slices.Contains(pending, m.String()), err
}

// apply runs the statements of a migration and marks it as applied: first, so that the mark is the lock, or last where
// making a table commits.
func (s *Store) apply(ctx context.Context, side Side, m migrate.Migration) error {
	files, err := files(s.migrations, s.dialect, side)
	if err != nil {
		return err
	}
	data := templateData{s.Names(), s.dialect}
	text, err := render(files, m.String()+".tx.up.sql", data)
	if err != nil {
		return err
	}
	table := data.Table(appliedTable(side))
	mark := fmt.Sprintf("INSERT INTO %s (name, group_id) SELECT '%s', coalesce(max(group_id), 0) + 1 FROM %s AS m", table, m.Name, table)
	statements := append([]string{mark}, strings.Split(text, "--bun:split\n")...)
	if !s.dialect.transactionalDDL() {
		statements = append(statements[1:], mark)
	}
	return s.InBounds(ctx, db.Exclusive, func(ctx context.Context, tx bun.IDB) error { return db.ExecAll(ctx, tx, statements) })
}

// pendingOnceOpen is Pending, tried again for five seconds while others are opening the same new file.
func (s *Store) pendingOnceOpen(ctx context.Context, side Side) ([]string, error) {
	for tries := 250; ; tries-- {
		pending, err := s.Pending(ctx, side)
		if !s.dialect.busy(err) || tries == 0 {
			return pending, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Pending returns the migrations that Migrate would apply: all of them where the side has no tables. It changes
// nothing, and needs no right to.
func (s *Store) Pending(ctx context.Context, side Side) (pending []string, err error) {
	set, err := discover(s.migrations, s.dialect, side)
	if err != nil {
		return nil, err
	}
	table := s.Names().Table(s.dialect.Quote(), appliedTable(side))
	var exists bool
	if err := s.DB().NewRaw(s.dialect.tableExists(table)).Scan(ctx, &exists); err != nil {
		return nil, fmt.Errorf("look for table %s: %w", table, err)
	}
	var applied migrate.MigrationSlice
	if exists {
		applied, err = migrate.NewMigrator(s.DB(), set, migrate.WithTableName(table)).AppliedMigrations(ctx)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", table, err)
		}
	}
	known := set.Sorted()
	for _, m := range known {
		if !contains(applied, m.Name) {
			pending = append(pending, m.String())
		}
	}
	for _, m := range applied {
		if !contains(known, m.Name) {
			return nil, fmt.Errorf("%s: %w (%s says that %s was applied): run the version that made them, or a newer one",
				side, ErrTablesNewer, table, m.Name)
		}
	}
	return pending, nil
}

// ErrTablesNewer says that a newer version migrated the tables: this one does not know what that needs of them.
var ErrTablesNewer = errors.New("the tables are newer than this version")

// ErrNotMigrated says that tables are missing or older than this version.
var ErrNotMigrated = errors.New("the tables are missing or older than this version")

// RequireMigrated returns ErrNotMigrated, with the command to run, unless the side has all its tables.
func (s *Store) RequireMigrated(ctx context.Context, side Side) error {
	pending, err := s.Pending(ctx, side)
	if err == nil && len(pending) > 0 {
		err = fmt.Errorf("%s: %w: run relay migrate --side %s (not applied: %s)",
			side, ErrNotMigrated, side, strings.Join(pending, ", "))
	}
	return err
}

// makeApplied makes the side's own table of marks, beside that of the service's migrations.
func (s *Store) makeApplied(ctx context.Context, side Side) error {
	statement := templateData{s.Names(), s.dialect}.createApplied(side)
	create := func() error {
		return s.InBounds(ctx, db.Exclusive, func(ctx context.Context, tx bun.IDB) error { return db.ExecAll(ctx, tx, []string{statement}) })
	}
	// IF NOT EXISTS loses a race on PostgreSQL after the other one has committed: the next time the table is there.
	const uniqueViolation, duplicateTable = "23505", "42P07"
	lost := func(err error) bool { return db.SQLState(err) == uniqueViolation || db.SQLState(err) == duplicateTable }
	err := create()
	for pause := db.MinPause; err != nil && ctx.Err() == nil && (passing(err) || lost(err)); pause *= 2 {
		s.sayUnknown(statement, err)
		if db.Rest(ctx, min(pause, db.MaxPause)) != nil {
			break
		}
		err = create()
	}
	return err
}

func contains(ms migrate.MigrationSlice, name string) bool {
	return slices.ContainsFunc(ms, func(m migrate.Migration) bool { return m.Name == name })
}

// PrintMigrations returns the SQL of one side for people who apply it with their own tool, as input for psql or
// sqlite3. It marks itself as applied, so that a later Migrate goes on from there. dialect is postgres, mysql or sqlite.
func PrintMigrations(dialect string, side Side, names Names) (string, error) {
	d, err := db.DialectNamed(dialect)
	if err != nil {
		return "", err
	}
	if err := names.CheckFor(d); err != nil {
		return "", err
	}
	data := templateData{names, dialectOf(d)}
	files, err := files(migrations.FS, data.dialect, side)
	if err != nil {
		return "", err
	}
	paths, err := fs.Glob(files, "*.up.sql") // sorted, and so in order
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "-- cqrsync, %s tables for %s. Apply in one transaction, stopping at the first error.\n", side, d.Name())
	fmt.Fprintf(&out, "%s;\n", data.createApplied(side))
	for _, path := range paths {
		sql, err := render(files, path, data)
		if err != nil {
			return "", err
		}
		number, _, _ := strings.Cut(path, "_")
		fmt.Fprintf(&out, "\n-- %s\nINSERT INTO %s (name, group_id) VALUES ('%s', 1);\n%s",
			path, data.Table(appliedTable(side)), number, strings.ReplaceAll(sql, "--bun:split\n", ""))
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
	names   Names
	dialect sqlDialect
}

// Table returns the quoted name of a table.
func (t templateData) Table(name string) string { return t.names.Table(t.dialect.Quote(), name) }

// createApplied is the table of marks with the columns that bun reads, and name unique.
func (t templateData) createApplied(side Side) string {
	return "CREATE TABLE IF NOT EXISTS " + t.Table(appliedTable(side)) + " " + t.dialect.appliedColumns()
}

func appliedTable(side Side) string { return string(side) + "_migrations" }

func files(all fs.FS, d sqlDialect, side Side) (fs.FS, error) {
	if side != Outbox && side != Replica {
		return nil, fmt.Errorf("side %q: want %s or %s", side, Outbox, Replica)
	}
	return fs.Sub(all, d.Name()+"/"+string(side))
}

func discover(all fs.FS, d sqlDialect, side Side) (*migrate.Migrations, error) {
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
