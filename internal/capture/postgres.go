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
	err := db.QueryRowContext(ctx, `SELECT
		coalesce((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.oid = to_regclass(?)), ''),
		current_setting('server_encoding')`, table).Scan(&schema, &encoding)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask where the outbox is: %w", err)
	case schema == "":
		return nil, fmt.Errorf("table %s is missing: run relay migrate first", table)
	case encoding != "UTF8":
		return nil, fmt.Errorf("the database has the encoding %s, and messages are UTF-8: "+
			"triggers need a UTF8 database", encoding)
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
	m.Relations = slices.Clone(m.Relations)
	for i, r := range m.Relations {
		table, err := e.targets(ctx, r.Table, nil)
		if errs = append(errs, err); err == nil {
			m.Relations[i].quoted = table[0].name
		}
	}
	for _, f := range m.Track {
		if f.Column.Kind == Float || f.Column.Array {
			errs = append(errs, fmt.Errorf(
				"track: column %s: triggers track neither floats nor lists", f.Column.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return plan{}, err
	}
	if err := e.tryData(ctx, m, own[0].name); err != nil {
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
	p.functions = append(p.functions, e.place.flush(m, own[0].name))
	text := append(e.base(), p.functions...)
	for _, t := range p.triggers {
		text = append(text, t.create, t.enable)
	}
	p.digest = digest(text)
	return p, nil
}

// tryData has PostgreSQL plan what makes a message of a row. The function that has it is not looked
// into before the first writer's commit.
func (e *postgres) tryData(ctx context.Context, m Model, table string) error {
	if m.Swept {
		return nil
	}
	rows, err := e.db.DB.QueryContext(ctx, "SELECT "+m.data()+", "+m.kept()+", "+m.unsendable()+
		" FROM "+table+" AS t WHERE false")
	if err != nil {
		return fmt.Errorf("what is to be sent of table %s cannot be read: %w", m.Table, err)
	}
	defer func() { _ = rows.Close() }() // there are none
	return rows.Err()
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
			return nil, fmt.Errorf("%s is no table of this database (a view, or a foreign table): "+
				"triggers stand on tables", name)
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
		err := e.db.QueryRowContext(ctx, `SELECT coalesce(bool_and(attnotnull), false)
			FROM pg_attribute WHERE attrelid = to_regclass(?) AND attname = ?`,
			tableName(m.Table), c.Name).Scan(&notNull)
		if err == nil && !notNull {
			err = fmt.Errorf("key column %s of table %s may be NULL, and a row without a key "+
				"cannot be sent: make it NOT NULL", c.Name, m.Table)
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
		comments = append(comments, fmt.Sprintf("COMMENT ON FUNCTION %s IS %s",
			e.flusher(p.model.ID), literal(comment(p.model.ID, p.digest))))
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
	return e.place.name("outbox_flush_"+short(id)) + "(boolean, integer, integer, json, json, text)"
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
