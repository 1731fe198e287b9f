package outbox

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// effect is what the database said of a statement that ran.
type effect struct {
	nothing  bool  // it failed as a whole
	affected int64 // rows, -1 if unknown
}

func effectOf(event *bun.QueryEvent) effect {
	var refused *RefusedError
	_, scanned := event.Result.(driver.RowsAffected) // bun counted the rows that it read
	switch {
	case (scanned || errors.Is(event.Err, sql.ErrNoRows)) && !returns(event):
		return effect{affected: -1}
	case errors.Is(event.Err, sql.ErrNoRows): // RETURNING had none
		return effect{affected: 0}
	case errors.As(event.Err, &refused) || db.SQLState(event.Err) != "" ||
		db.SQLiteCode(event.Err) != 0:
		return effect{nothing: true}
	case event.Err != nil || event.Result == nil:
		// The statement may have run: reading its rows failed.
		return effect{affected: -1}
	}
	n, err := event.Result.RowsAffected()
	if err != nil {
		n = -1
	}
	return effect{affected: n}
}

// returns says that a statement returns a row for each one that it changes. Where it does not, and
// is given a variable to scan into, no row comes back, whatever it changed.
func returns(event *bun.QueryEvent) bool {
	depth := 0
	for t := range tokensOf(event) {
		switch {
		case t.text == "(" && !t.quoted:
			depth++
		case t.text == ")" && !t.quoted:
			depth--
		case depth == 0 && t.is("RETURNING"):
			return true
		}
	}
	return false
}

// touchedRow is a row of a model with what happened to it.
type touchedRow struct {
	model *model
	row   reflect.Value
	how   deed
	state *knownState
}

// AfterQuery marks the rows of a captured statement that changed something.
func (s *session) AfterQuery(ctx context.Context, event *bun.QueryEvent) {
	if event.Err != nil {
		s.askWhetherLost(ctx, event)
	}
	c, ok := event.Stash[s].(*captured)
	if !ok {
		return
	}
	e := effectOf(event)
	var rows []touchedRow
	var doubt error
	if c.model != nil && !e.nothing {
		rows, doubt = s.touchedBy(ctx, event, c, e)
	}
	if !e.nothing && e.affected != 0 {
		rows = append(rows, c.parents...)
		for _, m := range c.moved {
			var err error
			rows, err = s.parentsOf(ctx, m.related, m.keys, rows)
			doubt = errors.Join(doubt, err)
		}
		for _, found := range c.counted {
			if e.affected > found.rows {
				doubt = errors.Join(doubt, found.related.untouched(write{verb: c.verb,
					table: found.related.table.Name}))
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if !e.nothing && c.point.verb != "" {
		s.savepoint(c.point)
		if c.point.verb == "ROLLBACK" {
			s.watched = nil // with their marks
		}
	}
	if !e.nothing && e.affected > 0 {
		s.watch(c.watched)
	}
	if s.sealed && len(rows) > 0 {
		s.refuse(lateWrite(event))
	}
	for _, r := range rows {
		marked, err := s.mark(r.model, r.row, r.how, r.state)
		if err == nil && !marked {
			err = unseen(c.verb, r.model.table.Name, "a row it was given has no primary key")
		}
		doubt = errors.Join(doubt, err)
	}
	if doubt != nil && s.doubt == nil && !s.box.observer.allows(ctx, doubt) {
		s.doubt = doubt // a hook cannot return it: the commit does
	}
}

// touchedBy lists the rows that a captured statement changed. An error says that they are not all
// known.
func (s *session) touchedBy(
	ctx context.Context, event *bun.QueryEvent, c *captured, e effect,
) ([]touchedRow, error) {
	if e.affected == 0 {
		return s.reroutedRows(ctx, c)
	}
	var rows []touchedRow
	switch c.verb {
	case "INSERT":
		var err error
		if rows, err = s.insertedRows(ctx, event, c, e); err != nil {
			return rows, err
		}
	default:
		if err := s.keptKeys(ctx, c, e); err != nil {
			return nil, err
		}
		how := touched // some of several rows: which, the database does not say
		switch {
		case c.verb == "DELETE":
			how = removed
		case e.affected >= int64(len(c.rows)):
			how = written
		}
		for _, row := range c.rows {
			rows = append(rows, touchedRow{model: c.model, row: row, how: how})
		}
		if c.verb == "DELETE" && e.affected > int64(len(c.rows)) {
			return rows, fmt.Errorf("outbox: DELETE on tracked table %s: %w", c.model.table.Name,
				errRaced)
		}
	}
	if c.whole {
		i := 0
		_ = eachRow(reflect.ValueOf(event.Model.Value()), func(row reflect.Value) error {
			if i < len(rows) {
				rows[i].state = c.model.known(event.DB.QueryGen(), row)
			}
			i++
			return nil
		})
	}
	return rows, nil
}

// reroutedRows are those of a statement for which the database counted none. In an ordinary table
// that is so; a rule, a trigger or a view may have written them elsewhere, and the flush looks.
func (s *session) reroutedRows(ctx context.Context, c *captured) ([]touchedRow, error) {
	if c.verb == "DELETE" && len(c.rows) == 0 || c.insert != nil &&
		c.insert.conflict != conflictFails {
		return nil, nil
	}
	// as it is now
	traits, err := s.box.catalog.Traits(ctx, s.quiet(), string(c.model.table.SQLName))
	if err != nil || !traits.Reroutes {
		return nil, err
	}
	var rows []touchedRow
	for i, row := range c.rows {
		if c.insert != nil && !c.insert.literal[i] {
			return nil, unseen(c.verb, c.model.table.Name,
				"a trigger or rule took over its rows, whose keys the database draws")
		}
		rows = append(rows, touchedRow{model: c.model, row: row, how: guessed})
	}
	return rows, nil
}

// errRaced is the conflict that another transaction committed a row between two statements of this
// one that name it.
const errRaced = db.ConflictError("another transaction wrote its rows meanwhile, under keys that " +
	"are not known; run the transaction again, as RetryInTx does")
