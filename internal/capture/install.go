package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// Names says where cqrsync's own tables are.
type Names struct {
	// Schema is empty for the connection's search path.
	Schema string
	Prefix string
}

// Capture installs, checks and removes the triggers of one database.
type Capture struct {
	db    *bun.DB
	names Names
}

// New makes a Capture; it does not talk to the database.
func New(db *bun.DB, names Names) *Capture { return &Capture{db, names} }

// Finding is something that keeps a table from being captured as its model says.
type Finding struct {
	Model, Table, Detail string
}

func (f Finding) String() string {
	return fmt.Sprintf("model %s: table %s: %s", f.Model, f.Table, f.Detail)
}

// engine is what a database's triggers need.
type engine interface {
	// plan reads the catalog and says what a model needs.
	plan(ctx context.Context, m Model) (plan, error)
	// print are the statements that install runs. Whoever runs them twice changes nothing.
	print(plans []plan) []string
	// install runs the plans.
	install(ctx context.Context, plans []plan) error
	// check compares the database with a plan.
	check(ctx context.Context, p plan) ([]Finding, error)
	// installed lists the models that have triggers.
	installed(ctx context.Context) ([]string, error)
	// remove takes away what belongs to models, and with the last one what they share.
	remove(ctx context.Context, ids []string) error
}

// plan is what a model needs in the database.
type plan struct {
	model     Model
	functions []string // statements
	triggers  []wanted
	digest    string
}

func (c *Capture) engine(ctx context.Context) (engine, error) {
	switch c.db.Dialect().Name() {
	case dialect.PG:
		return newPostgres(ctx, c.db, c.names)
	case dialect.MySQL:
		return &rowsEngine{c.db, c.names.Prefix, mysqlRows{}}, nil
	case dialect.SQLite:
		return &rowsEngine{c.db, c.names.Prefix, sqliteRows{}}, nil
	default:
		return nil, errors.New("triggers are known for PostgreSQL, MariaDB and SQLite")
	}
}

// Install puts the triggers of the models in place, or brings them up to date while others write.
// Running it again changes nothing. Models that are installed and not among these stay.
func (c *Capture) Install(ctx context.Context, models []Model) error {
	e, plans, err := c.plans(ctx, models)
	if err != nil {
		return err
	}
	return e.install(ctx, plans)
}

// Statements returns the SQL that Install runs, for those who run it themselves.
func (c *Capture) Statements(ctx context.Context, models []Model) ([]string, error) {
	e, plans, err := c.plans(ctx, models)
	if err != nil {
		return nil, err
	}
	return e.print(plans), nil
}

// Check says what is missing, disabled, older than this program, or of other columns than the table
// has now. Nothing means that every write to the models' tables makes a message.
func (c *Capture) Check(ctx context.Context, models []Model) ([]Finding, error) {
	e, plans, err := c.plans(ctx, models)
	if err != nil {
		return nil, err
	}
	var all []Finding
	for _, p := range plans {
		found, err := e.check(ctx, p)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Installed lists the ids of the models that have triggers.
func (c *Capture) Installed(ctx context.Context) ([]string, error) {
	e, err := c.engine(ctx)
	if err != nil {
		return nil, err
	}
	return e.installed(ctx)
}

// Remove takes the triggers of models away, and with the last one all that Install made.
func (c *Capture) Remove(ctx context.Context, ids []string) error {
	e, err := c.engine(ctx)
	if err != nil {
		return err
	}
	return e.remove(ctx, ids)
}

func (c *Capture) plans(ctx context.Context, models []Model) (engine, []plan, error) {
	var errs []error
	for _, m := range models {
		for _, key := range m.Key {
			if err := key.isKey(); err != nil {
				errs = append(errs, fmt.Errorf("model %s: %w", m.ID, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	e, err := c.engine(ctx)
	if err != nil {
		return nil, nil, err
	}
	plans := make([]plan, len(models))
	for i, m := range models {
		if plans[i], err = e.plan(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("model %s: %w", m.ID, err))
		}
	}
	return e, plans, errors.Join(errs...)
}

// lockWait is how long a statement waits for writers to let go of a table. Those who come after it
// wait behind it, so it gives up soon, and tries again.
const lockWait = 500 * time.Millisecond

// patiently runs fn until it gets its locks, or ctx ends.
func patiently(ctx context.Context, fn func() error) error {
	pause := lockWait
	for {
		err := fn()
		if err == nil || !strings.Contains(err.Error(), "55P03") { // lock_not_available
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; a transaction that wrote the table is still open: pg_stat_activity "+
				"shows it", ctx.Err(), err)
		case <-time.After(pause):
			pause = min(2*pause, 5*time.Second)
		}
	}
}

// union of two lists, sorted.
func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}
