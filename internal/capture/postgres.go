package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

type postgres struct {
	db    *bun.DB
	place place
}

// newPostgres finds out where the outbox is, because functions name its tables with their schema.
func newPostgres(ctx context.Context, db *bun.DB, names Names) (*postgres, error) {
	table := quote(names.Prefix + "outbox_messages")
	if names.Schema != "" {
		table = quote(names.Schema) + "." + table
	}
	var schema, encoding string
	err := db.QueryRowContext(ctx, `SELECT coalesce((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = to_regclass(?)), ''), current_setting('server_encoding')`, table).Scan(&schema, &encoding)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask where the outbox is: %w", err)
	case schema == "":
		return nil, fmt.Errorf("table %s is missing: run relay migrate first", table)
	case encoding != "UTF8":
		return nil, fmt.Errorf("the database has the encoding %s, and messages are UTF-8: triggers need a UTF8 database", encoding)
	}
	return &postgres{db, place{schema, names.Prefix}}, nil
}

func (e *postgres) plan(ctx context.Context, m Model) (plan, error) {
	own, err := e.targets(ctx, m.Table, nil)
	if err != nil {
		return plan{}, err
	}
	errs := []error{e.checkKey(ctx, m)}
	all := slices.Clone(own)
	for i := range m.Touch {
		touched, err := e.targets(ctx, m.Touch[i].Table, &m.Touch[i])
		errs = append(errs, err)
		all = append(all, touched...)
	}
	var lists []string
	for _, r := range m.Relations {
		table, err := e.targets(ctx, r.Table, nil)
		if errs = append(errs, err); err == nil {
			lists = append(lists, r.list(m.Key, table[0].name))
		}
	}
	for _, f := range m.Track {
		if f.Column.Kind == Float || f.Column.Array {
			errs = append(errs, fmt.Errorf("track: column %s: triggers track neither floats nor lists", f.Column.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return plan{}, err
	}
	p := plan{model: m}
	for _, t := range all {
		for _, statement := range e.place.markers(m, t) {
			if !slices.Contains(p.functions, statement) {
				p.functions = append(p.functions, statement)
			}
		}
		p.triggers = append(p.triggers, e.place.triggers(m, t)...)
	}
	p.functions = append(p.functions, e.place.flush(m, own[0].name, lists))
	text := append(e.base(), p.functions...)
	for _, t := range p.triggers {
		text = append(text, t.create, t.enable)
	}
	p.digest = digest(text)
	return p, nil
}

// targets are a table and those that hold rows of it: its children by inheritance and its
// partitions.
func (e *postgres) targets(ctx context.Context, table string, touch *Touch) ([]target, error) {
	rows, err := e.db.QueryContext(ctx, `
		WITH RECURSIVE below(oid, depth) AS (
			SELECT to_regclass(?)::oid, 0
			UNION ALL SELECT i.inhrelid, depth + 1 FROM below JOIN pg_inherits i ON i.inhparent = below.oid
		)
		SELECT DISTINCT ON (depth, c.oid) n.nspname, c.relname, c.relkind::text, c.relispartition
		FROM below JOIN pg_class c ON c.oid = below.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		ORDER BY depth, c.oid`, tableName(table))
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for table %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var all []target
	for rows.Next() {
		var schema, name, kind string
		var partition bool
		if err := rows.Scan(&schema, &name, &kind, &partition); err != nil {
			return nil, err
		}
		if kind != "r" && kind != "p" {
			return nil, fmt.Errorf("%s is no table of this database (a view, or a foreign table): triggers stand on tables", name)
		}
		all = append(all, target{
			name: quote(schema) + "." + quote(name), partitioned: kind == "p", touch: touch,
			partition: partition && len(all) > 0, // of the table itself its own row triggers say it all
		})
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("table %s does not exist", table)
	}
	return all, nil
}

func tableName(table string) string {
	schema, name, qualified := strings.Cut(table, ".")
	if !qualified {
		return quote(table)
	}
	return quote(schema) + "." + quote(name)
}

// checkKey refuses key columns that may be NULL: such a row has no key.
func (e *postgres) checkKey(ctx context.Context, m Model) error {
	var errs []error
	for _, c := range m.Key {
		var notNull bool
		err := e.db.QueryRowContext(ctx, "SELECT coalesce(bool_and(attnotnull), false) FROM pg_attribute WHERE attrelid = to_regclass(?) AND attname = ?",
			tableName(m.Table), c.Name).Scan(&notNull)
		if err == nil && !notNull {
			err = fmt.Errorf("key column %s of table %s may be NULL, and a row without a key cannot be sent: make it NOT NULL", c.Name, m.Table)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (e *postgres) base() []string {
	return append(e.place.marks(), e.place.settings(), e.place.taker())
}

// shared are the statements for what serves all models, those of the plans among them.
func (e *postgres) shared(plans []plan, others ...string) []string {
	ids := slices.Clone(others)
	var comments []string
	for _, p := range plans {
		ids = append(ids, p.model.ID)
		comments = append(comments, fmt.Sprintf("COMMENT ON FUNCTION %s IS %s", e.flusher(p.model.ID), literal(comment(p.model.ID, p.digest))))
	}
	flush := e.place.name("outbox_flush")
	statements := []string{
		e.place.dispatcher(union(ids, nil)),
		"REVOKE ALL ON FUNCTION " + flush + "(), " + e.place.name("outbox_settings") + "() FROM PUBLIC",
	}
	for _, p := range plans {
		statements = append(statements, "REVOKE ALL ON FUNCTION "+e.flusher(p.model.ID)+" FROM PUBLIC")
	}
	return append(append(statements, comments...),
		"DROP TRIGGER IF EXISTS cqrsync_flush ON "+e.place.name("outbox_marks"),
		"CREATE CONSTRAINT TRIGGER cqrsync_flush AFTER INSERT OR UPDATE ON "+e.place.name("outbox_marks")+
			" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.first) EXECUTE FUNCTION "+flush+"()",
		"ALTER TABLE "+e.place.name("outbox_marks")+" ENABLE ALWAYS TRIGGER cqrsync_flush")
}

func (e *postgres) flusher(id string) string {
	return e.place.name("outbox_flush_"+short(id)) + "(integer, integer, json, json, text)"
}

// comment is what the catalog keeps about a model: the generation, the digest and the id.
func comment(id, digest string) string {
	return fmt.Sprintf("cqrsync capture %d %s %s", Version, digest, id)
}

func (w wanted) statements() []string {
	return []string{
		"CREATE TRIGGER " + quote(w.name) + " " + w.create + " EXECUTE FUNCTION " + w.function + "()",
		"ALTER TABLE " + w.table + " ENABLE " + w.enable + " TRIGGER " + quote(w.name),
	}
}

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
				"SELECT pg_advisory_xact_lock(hashtextextended(" + literal("cqrsync capture "+e.place.name("")) + ", 0))",
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
	rows, err := tx.QueryContext(ctx, `SELECT d.description FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
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
			add(w.table, "trigger "+w.name+" is not enabled "+map[string]string{"A": "ALWAYS", "R": "for replica"}[w.state])
		}
	}
	return all, nil
}

// remove drops the triggers first: it waits for those who wrote the tables, so that no transaction
// is left that has marks and nobody to flush them.
func (e *postgres) remove(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := e.removeTriggers(ctx, id, nil); err != nil {
			return fmt.Errorf("model %s: %w", id, err)
		}
	}
	return e.inTx(ctx, func(tx bun.Tx) error {
		left, err := e.installedIn(ctx, tx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			delete(left, id)
			if err := e.dropFunctions(ctx, tx, id); err != nil {
				return err
			}
		}
		if len(left) == 0 {
			if err := e.requireSwept(ctx, tx); err != nil {
				return err
			}
			return run(ctx, tx, []string{
				"DROP TABLE IF EXISTS " + e.place.name("outbox_marks") + ", " + e.place.name("outbox_dirty"),
				"DROP FUNCTION IF EXISTS " + e.place.name("outbox_take") + "(text[])",
				"DROP FUNCTION IF EXISTS " + e.place.name("outbox_flush") + "()",
				"DROP FUNCTION IF EXISTS " + e.place.name("outbox_settings") + "()",
			})
		}
		var others []string
		for id := range left {
			others = append(others, id)
		}
		return run(ctx, tx, []string{e.place.dispatcher(others)})
	})
}

// requireSwept refuses to drop marks that are not sent.
func (e *postgres) requireSwept(ctx context.Context, tx bun.Tx) error {
	var unswept int
	dirty := e.place.name("outbox_dirty")
	if err := tx.Tx.QueryRowContext(ctx, "SELECT count(*) FROM "+dirty).Scan(&unswept); err != nil || unswept == 0 {
		return err
	}
	return unsent(unswept, dirty)
}

// unsent is the error of removing the last triggers while marks wait.
func unsent(marks int, dirty string) error {
	return fmt.Errorf("%d changes are noted in %s and not sent yet: the triggers are gone; let the relay (run --config) or "+
		"the service (Box.RunSweep) send them, then remove again", marks, dirty)
}

// removeTriggers drops those of a model but some.
func (e *postgres) removeTriggers(ctx context.Context, id string, but []wanted) error {
	rows, err := e.db.QueryContext(ctx, `SELECT n.nspname, c.relname, t.tgname
		FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
		WHERE t.tgparentid = 0 AND p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = ?) AND d.description = ?`,
		e.place.schema, markComment(id))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var drops []string
	for rows.Next() {
		var schema, table, name string
		if err := rows.Scan(&schema, &table, &name); err != nil {
			return err
		}
		table = quote(schema) + "." + quote(table)
		if !slices.ContainsFunc(but, func(w wanted) bool { return w.name == name && w.table == table }) {
			drops = append(drops, "DROP TRIGGER IF EXISTS "+quote(name)+" ON "+table)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, drop := range drops {
		if err := e.inTx(ctx, func(tx bun.Tx) error { return run(ctx, tx, []string{drop}) }); err != nil {
			return err
		}
	}
	return nil
}

// markComment tells which model a function that marks belongs to.
func markComment(id string) string { return "cqrsync marks " + id }

func (e *postgres) dropFunctions(ctx context.Context, tx bun.Tx, id string) error {
	rows, err := tx.Tx.QueryContext(ctx, `SELECT p.oid::regprocedure::text FROM pg_proc p
		JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
		WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND d.description = $2`, e.place.schema, markComment(id))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	drops := []string{"DROP FUNCTION IF EXISTS " + e.flusher(id)}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		drops = append(drops, "DROP FUNCTION "+name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	return run(ctx, tx, drops)
}
