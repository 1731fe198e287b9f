package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

func (e *postgres) print(plans []plan) []string {
	statements := e.base()
	for _, p := range plans {
		statements = append(statements, p.functions...)
	}
	statements = append(statements, e.shared(plans)...)
	for _, p := range plans {
		for _, t := range p.triggers {
			statements = append(statements, "DROP TRIGGER IF EXISTS "+quote(t.name)+" ON "+t.table)
			statements = append(statements, t.statements()...)
		}
	}
	return slices.Concat([]string{"BEGIN"}, statements, []string{"COMMIT"})
}

func (e *postgres) install(ctx context.Context, plans []plan) error {
	if err := e.installFunctions(ctx, plans); err != nil {
		return fmt.Errorf("make the functions: %w", err)
	}
	for _, p := range plans {
		for _, w := range p.triggers {
			if err := e.ensure(ctx, w); err != nil {
				return fmt.Errorf("model %s: trigger on %s: %w", p.model.ID, w.table, err)
			}
		}
		if err := e.removeTriggers(ctx, p.model.ID, p.triggers); err != nil {
			return fmt.Errorf("model %s: drop triggers that it has no more: %w", p.model.ID, err)
		}
	}
	return nil
}

// installFunctions makes all functions in one transaction, one process at a time: whoever writes
// meanwhile runs either all old or all new ones.
func (e *postgres) installFunctions(ctx context.Context, plans []plan) error {
	return e.inTx(ctx, func(tx bun.Tx) error {
		others, err := e.installedIn(ctx, tx)
		if err != nil {
			return err
		}
		statements := e.base()
		upToDate := true
		for _, p := range plans {
			statements = append(statements, p.functions...)
			upToDate = upToDate && others[p.model.ID] == comment(p.model.ID, p.digest)
		}
		if upToDate && len(plans) > 0 {
			return nil
		}
		var ids []string
		for id := range others {
			ids = append(ids, id)
		}
		return run(ctx, tx, append(statements, e.shared(plans, ids...)...))
	})
}

// inTx runs fn in a transaction that no other process's install or remove runs beside.
func (e *postgres) inTx(ctx context.Context, fn func(tx bun.Tx) error) error {
	return patiently(ctx, func() error {
		return e.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			err := run(ctx, tx, []string{
				fmt.Sprintf("SET LOCAL lock_timeout = %d", lockWait.Milliseconds()),
				"SELECT pg_advisory_xact_lock(hashtextextended(" +
					literal("cqrsync capture "+e.place.name("")) + ", 0))",
			})
			if err == nil {
				err = fn(tx)
			}
			return err
		})
	})
}

func run(ctx context.Context, tx bun.Tx, statements []string) error {
	for _, statement := range statements {
		if _, err := tx.Tx.ExecContext(ctx, statement); err != nil {
			first, _, _ := strings.Cut(statement, "\n")
			return fmt.Errorf("%s: %w", first, err)
		}
	}
	return nil
}

// ensure makes one trigger, or enables it.
func (e *postgres) ensure(ctx context.Context, w wanted) error {
	state, err := e.state(ctx, w)
	if err != nil || state == w.state {
		return err
	}
	statements := w.statements()
	if state != "" {
		statements = statements[1:]
	}
	return e.inTx(ctx, func(tx bun.Tx) error { return run(ctx, tx, statements) })
}

// state is how the trigger is enabled, empty where there is none.
func (e *postgres) state(ctx context.Context, w wanted) (state string, err error) {
	err = e.db.QueryRowContext(ctx, `SELECT coalesce((SELECT tgenabled::text FROM pg_trigger
		WHERE tgrelid = to_regclass(?) AND tgname = ?), '')`, w.table, w.name).Scan(&state)
	return state, err
}

// installedIn reads the comments by id.
func (e *postgres) installedIn(ctx context.Context, tx bun.IDB) (map[string]string, error) {
	rows, err := tx.QueryContext(ctx, `SELECT d.description
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
		WHERE n.nspname = ? AND starts_with(p.proname, ?) AND d.description LIKE 'cqrsync capture %'`,
		e.place.schema, e.place.prefix+"outbox_flush_")
	if err != nil {
		return nil, fmt.Errorf("ask the catalog what is captured: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	found := map[string]string{}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		if parts := strings.SplitN(text, " ", 5); len(parts) == 5 {
			found[parts[4]] = text
		}
	}
	return found, rows.Err()
}

func (e *postgres) installed(ctx context.Context) ([]string, error) {
	found, err := e.installedIn(ctx, e.db)
	var ids []string
	for id := range found {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, err
}

func (e *postgres) check(ctx context.Context, p plan) ([]Finding, error) {
	var all []Finding
	add := func(table, detail string) { all = append(all, Finding{p.model.ID, table, detail}) }
	installed, err := e.installedIn(ctx, e.db)
	if err != nil {
		return nil, err
	}
	text, found := installed[p.model.ID]
	switch {
	case !found:
		add(p.model.Table, "it has no triggers")
		return all, nil
	case !strings.HasPrefix(text, fmt.Sprintf("cqrsync capture %d ", Version)):
		add(p.model.Table, "its triggers are of another version of cqrsync")
	case text != comment(p.model.ID, p.digest):
		add(p.model.Table, "its triggers were made for other columns or settings than it has now")
	}
	for _, w := range append([]wanted{{
		table: e.place.name("outbox_marks"), name: "cqrsync_flush", state: "A",
	}}, p.triggers...) {
		state, err := e.state(ctx, w)
		switch {
		case err != nil:
			return nil, err
		case state == "":
			add(w.table, "trigger "+w.name+" is missing")
		case state == "D":
			add(w.table, "trigger "+w.name+" is disabled")
		case state != w.state:
			add(w.table, "trigger "+w.name+" is not enabled "+
				map[string]string{"A": "ALWAYS", "R": "for replica"}[w.state])
		}
	}
	return all, nil
}
