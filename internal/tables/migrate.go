// Package tables makes cqrsync's own tables, and says what is missing of them.
package tables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/migrate"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/migrations"
)

// Migrator makes the tables of one database. It is safe for concurrent use.
type Migrator struct {
	*db.Database
	dialect dialect
	// migrations is migrations.FS; tests add those of a version to come.
	migrations fs.FS
}

// New returns a migrator that has done nothing yet.
func New(d *db.Database) *Migrator {
	return &Migrator{d, dialectFor(d.Dialect()), migrations.FS}
}

// Migrate creates or upgrades the tables of one side and returns the migrations it applied itself.
//
// It is safe when several processes start at once, and through a transaction-pooling proxy: a
// migration's first statement, in the migration's own transaction, writes its mark, and the mark's
// unique name is the lock. The second one waits there, fails when the first commits, and goes on
// with the next migration. A crash at any moment leaves either both, tables and mark, or neither.
//
// Where making a table commits (MariaDB), the mark comes last instead, and the migrations are
// written so that they may run again, or at once: what is there already is left as it is.
//
// Where there is nothing to do it only reads, so that a service may call it that has no right to
// make tables.
func (m *Migrator) Migrate(ctx context.Context, side db.Side) (applied []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("migrate %s tables: %w", side, err)
		}
	}()
	pending, err := m.pendingOnceOpen(ctx, side)
	if err != nil || len(pending) == 0 {
		return nil, err
	}
	if err := m.makeApplied(ctx, side); err != nil {
		return nil, err
	}
	set, err := discover(m.migrations, m.dialect, side)
	if err != nil {
		return nil, err
	}
	for _, next := range set.Sorted() {
		if !slices.Contains(pending, next.String()) {
			continue
		}
		own, err := m.applyInTime(ctx, side, next)
		if err != nil {
			return applied, fmt.Errorf("%s: %w", next.String(), err)
		}
		if own {
			applied = append(applied, next.String())
		}
	}
	return applied, nil
}

// applyInTime applies a migration and tries again for as long as others hold its locks. Who writes
// to a table waits behind whoever waits to change it, so it waits for a short time, and rarely. own
// is false where another process was first.
func (m *Migrator) applyInTime(
	ctx context.Context, side db.Side, next migrate.Migration,
) (own bool, err error) {
	for pause := db.MinPause; ; pause = min(2*pause, db.MaxPause) {
		err := m.apply(ctx, side, next)
		if err == nil {
			return true, nil
		}
		if done, pendingErr := m.isApplied(ctx, side, next); pendingErr == nil && done {
			return false, nil
		}
		if ctx.Err() != nil || !db.Passing(err) && !numberLocked(err) {
			return false, err
		}
		m.sayUnknown(next.Name, err)
		if db.Rest(ctx, pause) != nil {
			return false, err
		}
	}
}

// numberLocked is MariaDB's answer to a row of the table of marks while others write theirs: the
// lock on its numbers was not to be had in time.
func numberLocked(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Error 1467 (")
}

// sayUnknown says that something waits where the database did not tell for whom.
func (m *Migrator) sayUnknown(what string, err error) {
	if db.LockTimedOut(err) && db.HoldersOf(err) == db.UnknownHolder {
		m.SayWait(what, db.HoldersOf(err))
	}
}

func (m *Migrator) isApplied(
	ctx context.Context, side db.Side, next migrate.Migration,
) (bool, error) {
	pending, err := m.Pending(ctx, side)
	return !slices.Contains(pending, next.String()), err
}

// apply runs the statements of a migration and marks it as applied: first, so that the mark is the
// lock, or last where making a table commits.
func (m *Migrator) apply(ctx context.Context, side db.Side, next migrate.Migration) error {
	files, err := files(m.migrations, m.dialect, side)
	if err != nil {
		return err
	}
	data := templateData{m.Names(), m.dialect}
	text, err := render(files, next.String()+".tx.up.sql", data)
	if err != nil {
		return err
	}
	table := data.Table(appliedTable(side))
	mark := fmt.Sprintf("INSERT INTO %s (name, group_id) SELECT '%s', coalesce(max(group_id), 0) "+
		"+ 1 FROM %s AS m", table, next.Name, table)
	statements := append([]string{mark}, strings.Split(text, "--bun:split\n")...)
	if !m.dialect.transactionalDDL() {
		statements = append(statements[1:], mark)
	}
	return m.InBounds(ctx, db.Exclusive, func(ctx context.Context, tx bun.IDB) error {
		return db.ExecAll(ctx, tx, statements)
	})
}

// pendingOnceOpen is Pending, tried again for five seconds while others are opening the same new
// file.
func (m *Migrator) pendingOnceOpen(ctx context.Context, side db.Side) ([]string, error) {
	for tries := 250; ; tries-- {
		pending, err := m.Pending(ctx, side)
		if !m.dialect.busy(err) || tries == 0 {
			return pending, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Pending returns the migrations that Migrate would apply: all of them where the side has no
// tables. It changes nothing, and needs no right to.
func (m *Migrator) Pending(ctx context.Context, side db.Side) (pending []string, err error) {
	set, err := discover(m.migrations, m.dialect, side)
	if err != nil {
		return nil, err
	}
	table := m.Names().Table(m.dialect.Quote(), appliedTable(side))
	var exists bool
	if err := m.DB().NewRaw(m.dialect.tableExists(table)).Scan(ctx, &exists); err != nil {
		return nil, fmt.Errorf("look for table %s: %w", table, err)
	}
	var applied migrate.MigrationSlice
	if exists {
		applied, err = migrate.NewMigrator(m.DB(), set,
			migrate.WithTableName(table)).AppliedMigrations(ctx)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", table, err)
		}
	}
	known := set.Sorted()
	for _, one := range known {
		if !contains(applied, one.Name) {
			pending = append(pending, one.String())
		}
	}
	for _, one := range applied {
		if !contains(known, one.Name) {
			return nil, fmt.Errorf("%s: %w (%s says that %s was applied): run the version that "+
				"made them, or a newer one",
				side, ErrNewer, table, one.Name)
		}
	}
	return pending, nil
}

// ErrNewer says that a newer version migrated the tables: this one does not know what that needs of
// them.
var ErrNewer = errors.New("the tables are newer than this version")

// ErrNotMigrated says that tables are missing or older than this version.
var ErrNotMigrated = errors.New("the tables are missing or older than this version")

// RequireMigrated returns ErrNotMigrated, with the command to run, unless the side has all its
// tables.
func (m *Migrator) RequireMigrated(ctx context.Context, side db.Side) error {
	pending, err := m.Pending(ctx, side)
	if err == nil && len(pending) > 0 {
		err = fmt.Errorf("%s: %w: run relay migrate --side %s (not applied: %s)",
			side, ErrNotMigrated, side, strings.Join(pending, ", "))
	}
	return err
}

// makeApplied makes the side's own table of marks, beside that of the service's migrations.
func (m *Migrator) makeApplied(ctx context.Context, side db.Side) error {
	statement := templateData{m.Names(), m.dialect}.createApplied(side)
	create := func() error {
		return m.InBounds(ctx, db.Exclusive, func(ctx context.Context, tx bun.IDB) error {
			return db.ExecAll(ctx, tx, []string{statement})
		})
	}
	// IF NOT EXISTS loses a race on PostgreSQL after the other one has committed, at the table, at the
	// type of its rows, or at an index of the catalog: the next time the table is there.
	const uniqueViolation, duplicateTable, duplicateObject = "23505", "42P07", "42710"
	lost := func(err error) bool {
		return slices.Contains([]string{uniqueViolation, duplicateTable, duplicateObject},
			db.SQLState(err))
	}
	err := create()
	for pause := db.MinPause; err != nil && ctx.Err() == nil &&
		(db.Passing(err) || lost(err)); pause *= 2 {
		m.sayUnknown(statement, err)
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
