package capture

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

func (e *rowsEngine) install(ctx context.Context, plans []plan) error {
	for _, statement := range e.base() {
		if _, err := e.db.DB.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("make %s: %w", e.dirty(), err)
		}
	}
	for _, p := range plans {
		standing, err := e.standing(ctx)
		if err != nil {
			return err
		}
		for _, w := range p.triggers {
			if s, found := standing[w.name]; found && s.comment == comment(p.model.ID, p.digest) {
				continue
			}
			if err := e.inTx(ctx, e.statements(p, w)); err != nil {
				return fmt.Errorf("model %s: trigger on %s: %w", p.model.ID, w.table, err)
			}
		}
		for name, s := range standing {
			wanted := slices.ContainsFunc(p.triggers, func(w wanted) bool { return w.name == name })
			if s.model() == p.model.ID && !wanted {
				if err := e.drop(ctx, name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (e *rowsEngine) print(plans []plan) []string {
	statements := e.base()
	for _, p := range plans {
		for _, w := range p.triggers {
			statements = append(statements, e.statements(p, w)...)
		}
	}
	return statements
}

func (e *rowsEngine) inTx(ctx context.Context, statements []string) error {
	return e.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return run(ctx, tx, statements)
	})
}

func (e *rowsEngine) drop(ctx context.Context, name string) error {
	if _, err := e.db.DB.ExecContext(ctx, "DROP TRIGGER IF EXISTS "+e.in.quote(name)); err != nil {
		return fmt.Errorf("drop trigger %s: %w", name, err)
	}
	return nil
}

// standingTrigger is one that the database has.
type standingTrigger struct{ table, comment string }

// model is the id that the comment names.
func (s standingTrigger) model() string {
	parts := strings.SplitN(s.comment, " ", 5)
	if len(parts) < 5 {
		return ""
	}
	return parts[4]
}

var commented = regexp.MustCompile(`/\* (cqrsync capture [^*]*) \*/`)

// standing reads cqrsync's triggers by name.
func (e *rowsEngine) standing(ctx context.Context) (map[string]standingTrigger, error) {
	rows, err := e.db.DB.QueryContext(ctx, e.in.texts())
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for triggers: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	found := map[string]standingTrigger{}
	for rows.Next() {
		var table, name, text string
		if err := rows.Scan(&table, &name, &text); err != nil {
			return nil, err
		}
		c := commented.FindStringSubmatch(text)
		if c != nil && strings.HasPrefix(name, e.prefix+"cqrsync_") {
			found[name] = standingTrigger{table, c[1]}
		}
	}
	return found, rows.Err()
}

func (e *rowsEngine) installed(ctx context.Context) ([]string, error) {
	standing, err := e.standing(ctx)
	var ids []string
	for _, s := range standing {
		ids = append(ids, s.model())
	}
	return union(ids, nil), err
}

func (e *rowsEngine) check(ctx context.Context, p plan) ([]Finding, error) {
	standing, err := e.standing(ctx)
	if err != nil {
		return nil, err
	}
	var all []Finding
	add := func(table, detail string) { all = append(all, Finding{p.model.ID, table, detail}) }
	missing := 0
	for _, w := range p.triggers {
		s, found := standing[w.name]
		switch {
		case !found:
			add(w.table, "trigger "+w.name+" is missing")
			missing++
		case !strings.HasPrefix(s.comment, fmt.Sprintf("cqrsync capture %d ", Version)):
			add(w.table, "trigger "+w.name+" is of another version of cqrsync")
		case s.comment != comment(p.model.ID, p.digest):
			add(w.table, "trigger "+w.name+" was made for other columns or settings than the table has now")
		}
	}
	if missing == len(p.triggers) {
		return []Finding{{p.model.ID, p.model.Table, "it has no triggers"}}, nil
	}
	return all, nil
}

func (e *rowsEngine) remove(ctx context.Context, ids []string) error {
	standing, err := e.standing(ctx)
	if err != nil {
		return err
	}
	left := 0
	for name, s := range standing {
		if !slices.Contains(ids, s.model()) {
			left++
			continue
		}
		if err := e.drop(ctx, name); err != nil {
			return err
		}
	}
	if left > 0 {
		return nil
	}
	var unswept int
	query := "SELECT count(*) FROM " + e.dirty()
	if err := e.db.DB.QueryRowContext(ctx, query).Scan(&unswept); err != nil {
		return nil //nolint:nilerr // it was never made
	}
	if unswept > 0 {
		return unsent(unswept, e.dirty())
	}
	_, err = e.db.DB.ExecContext(ctx, "DROP TABLE IF EXISTS "+e.dirty())
	return err
}
