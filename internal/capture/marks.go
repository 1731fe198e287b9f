package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// Mark is a key that triggers saw something happen to.
type Mark struct {
	Model, Key string
	// Inserted says that the row was not there before, Gone that it is not there after, as far as
	// the statements tell.
	Inserted, Gone bool
	// Touched says that only rows that belong to it were written.
	Touched bool
	// Said is what the newest transaction said of itself that wrote the key. Of swept marks only.
	Said Said
}

// Said is what a transaction says of itself by settings (SET LOCAL cqrsync.meta = …).
type Said struct {
	Meta          json.RawMessage
	Headers       map[string]string
	CorrelationID string
}

// PK is the key as JSON, as a message has it.
func (m Mark) PK(key []Column) json.RawMessage {
	if len(key) > 1 || key[0].Kind == Integer {
		return json.RawMessage(m.Key)
	}
	text, _ := json.Marshal(m.Key) // a text always can be
	return text
}

// Standing says which tables have triggers that see every row, by the id of the model that they
// mark.
type Standing map[string][]string

// Standing asks the catalog. It returns nothing, and no error, where nothing was installed.
func (c *Capture) Standing(ctx context.Context) (Standing, error) {
	if c.db.Dialect().Name() == dialect.PG {
		return c.standingPostgres(ctx)
	}
	e, err := c.engine(ctx)
	if err != nil {
		return nil, err
	}
	triggers, err := e.(*rowsEngine).standing(ctx) //nolint:forcetypeassert // all but PostgreSQL's are
	if err != nil {
		return nil, err
	}
	seen := map[[2]string]int{}
	for _, t := range triggers {
		seen[[2]string{t.model(), t.table}]++
	}
	all := Standing{}
	for at, n := range seen {
		if n >= len(events) {
			all[at[0]] = append(all[at[0]], at[1])
		}
	}
	return all, nil
}

// Keeps says that there is a table of marks for the sweep, also where the triggers are gone since.
func (c *Capture) Keeps(ctx context.Context) (found bool, err error) {
	query := "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?)"
	args := []any{c.names.Prefix + "outbox_dirty"}
	switch c.db.Dialect().Name() { //nolint:exhaustive // those that have triggers
	case dialect.PG:
		query, args = "SELECT to_regclass($1) IS NOT NULL", []any{c.qualified("outbox_dirty")}
	case dialect.MySQL:
		query = `SELECT EXISTS (SELECT 1 FROM information_schema.tables
			WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ?)`
		args = []any{c.names.Schema, c.names.Prefix + "outbox_dirty"}
	}
	if err := c.db.DB.QueryRowContext(ctx, query, args...).Scan(&found); err != nil {
		return false, fmt.Errorf("ask the catalog for marks: %w", err)
	}
	return found, nil
}

func (c *Capture) standingPostgres(ctx context.Context) (Standing, error) {
	rows, err := c.db.DB.QueryContext(ctx, `
		SELECT substr(d.description, length('cqrsync marks ') + 1), n.nspname || '.' || c.relname
		FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
		JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
			AND starts_with(d.description, 'cqrsync marks ')
		JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE t.tgparentid = 0 AND t.tgenabled = 'A' AND t.tgtype & 32 = 0 AND p.pronamespace = (
			SELECT relnamespace FROM pg_class WHERE oid = to_regclass($1)) AND starts_with(p.proname, $2)
		GROUP BY d.description, n.nspname, c.relname
		HAVING count(*) = 3 OR bool_or(t.tgtype & 1 <> 0)`,
		c.qualified("outbox_marks"), c.names.Prefix+"outbox_mark_")
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for triggers: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	all := Standing{}
	for rows.Next() {
		var id, table string
		if err := rows.Scan(&id, &table); err != nil {
			return nil, err
		}
		all[id] = append(all[id], table)
	}
	return all, rows.Err()
}

// qualified is one of cqrsync's names as a statement has it.
func (c *Capture) qualified(name string) string {
	q := quote
	if c.db.Dialect().Name() == dialect.MySQL {
		q = mysqlRows{}.quote
	}
	name = q(c.names.Prefix + name)
	if c.names.Schema != "" {
		name = q(c.names.Schema) + "." + name
	}
	return name
}

// Newest is the last mark there is, where Take needs it to know what comes after.
func (c *Capture) Newest(ctx context.Context, tx bun.IDB) (id int64, err error) {
	if c.db.Dialect().Name() != dialect.SQLite {
		return 0, nil
	}
	query := "SELECT coalesce(max(id), 0) FROM " + c.qualified("outbox_dirty")
	err = tx.QueryRowContext(ctx, query).Scan(&id)
	return id, err
}

// Take takes the marks of models that a transaction has made, in it, before it commits: whoever
// calls it makes the messages. after is what Newest returned at its beginning.
func (c *Capture) Take(ctx context.Context, tx bun.IDB, ids []string, after int64) ([]Mark, error) {
	switch c.db.Dialect().Name() {
	case dialect.PG:
		return c.takePostgres(ctx, tx, ids)
	case dialect.MySQL:
		return c.takeRows(ctx, tx, "session = CONNECTION_ID() AND model IN (?)", bun.List(ids))
	default:
		return c.takeRows(ctx, tx, "id > ? AND model IN (?)", after, bun.List(ids))
	}
}

func (c *Capture) takePostgres(ctx context.Context, tx bun.IDB, ids []string) ([]Mark, error) {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = literal(id)
	}
	query := "SELECT model, key, inserted, gone, touched FROM " + c.qualified("outbox_take") +
		"(ARRAY[" + strings.Join(list, ", ") + "]::text[])"
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("take what triggers marked: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var all []Mark
	for rows.Next() {
		var m Mark
		if err := rows.Scan(&m.Model, &m.Key, &m.Inserted, &m.Gone, &m.Touched); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, rows.Err()
}

// Sweep takes marks that are committed, the oldest ones first, at most limit. The transaction in
// which it does that makes their messages: if it fails, the marks are there again.
func (c *Capture) Sweep(ctx context.Context, tx bun.IDB, ids []string, limit int) ([]Mark, error) {
	lock := ""
	if c.db.Dialect().Name() == dialect.PG {
		lock = " FOR UPDATE SKIP LOCKED"
	}
	query := "SELECT id FROM " + c.qualified("outbox_dirty") +
		" WHERE model IN (?) ORDER BY id LIMIT ?" + lock
	rows, err := tx.QueryContext(ctx, query, bun.List(ids), limit)
	if err != nil {
		return nil, fmt.Errorf("look for what triggers marked: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var list []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		list = append(list, id)
	}
	if err := rows.Err(); err != nil || len(list) == 0 {
		return nil, err
	}
	_ = rows.Close() // SQLite has one statement at a time on a connection
	return c.takeRows(ctx, tx, "id IN (?)", bun.List(list))
}

// KeyKind is what a column of a key is to triggers, by the name of its type.
func KeyKind(name dialect.Name, base string) (Kind, bool) {
	switch base {
	case "int2", "int4", "int8", "tinyint", "smallint", "mediumint", "int", "bigint", "integer":
		return Integer, true
	case "text", "varchar", "character varying", "tinytext", "mediumtext", "longtext":
		return Text, true
	case "bpchar":
		return PaddedText, true
	case "char":
		return Text, name != dialect.PG
	case "uuid":
		return UUID, true
	case "date":
		return Date, name != dialect.SQLite // where a date is whatever text the writer made of it
	case "numeric", "decimal":
		return Decimal, name != dialect.SQLite // where it is a float
	}
	return 0, false
}
