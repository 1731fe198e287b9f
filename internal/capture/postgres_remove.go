package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun"
)

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
	query := "SELECT count(*) FROM " + dirty
	if err := tx.Tx.QueryRowContext(ctx, query).Scan(&unswept); err != nil || unswept == 0 {
		return err
	}
	return unsent(unswept, dirty)
}

// unsent is the error of removing the last triggers while marks wait.
func unsent(marks int, dirty string) error {
	return fmt.Errorf("%d changes are noted in %s and not sent yet: the triggers are gone; "+
		"let the relay (run --config) or the service (Box.RunSweep) send them, then remove again",
		marks, dirty)
}

// removeTriggers drops those of a model but some.
func (e *postgres) removeTriggers(ctx context.Context, id string, but []wanted) error {
	rows, err := e.db.QueryContext(ctx, `SELECT n.nspname, c.relname, t.tgname
		FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
		JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
		WHERE t.tgparentid = 0
			AND p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = ?)
			AND d.description = ?
			AND starts_with(p.proname, ?)`, e.place.schema, markComment(id), e.place.prefix+"outbox_mark_")
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
		WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND d.description = $2
			AND starts_with(p.proname, $3)`, e.place.schema, markComment(id), e.place.prefix+"outbox_mark_")
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
