package outbox

import (
	"context"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// This file finds out that a trigger stored rows under other keys than their statement names. The
// flush reads the rows of the keys that the text names. Where such a key has a row of its own, that
// row would be sent in place of the one that was written, and nothing would show it.

// placed is what stood under the keys of a statement before it ran.
type placed struct {
	named    []reflect.Value // the rows whose keys are in the text
	versions []string        // of the rows that are there already
	rewrites bool            // each write changes the version of a row
}

// beforeTriggers looks up what stands under the keys in the text, where the catalog says that a
// trigger may change them.
func (s *session) beforeTriggers(ctx context.Context, c *captured) error {
	traits, err := c.model.traits(ctx, s.box, s.quiet())
	if err != nil || !c.movedBy(traits) {
		return err
	}
	before := &placed{named: c.rows, rewrites: traits.Versions}
	lock := current
	if c.updates() && traits.Versions {
		lock = forUpdate // else a change by another transaction would pass for the statement's own
	}
	if c.insert != nil {
		before.named = nil
		for i, row := range c.rows {
			if c.insert.literal[i] {
				before.named = append(before.named, row)
			}
		}
	}
	if before.versions, err = before.read(ctx, s, c.model, lock); err == nil {
		c.before = before
	}
	return err
}

// updates says that the statement may write rows that are there already.
func (c *captured) updates() bool { return c.insert == nil || c.insert.conflict == conflictUpdates }

func (c *captured) movedBy(t catalog.Traits) bool {
	return c.insert != nil && t.MovesInserts || c.updates() && t.MovesUpdates
}

func (p *placed) read(
	ctx context.Context, s *session, m *model, lock func(*bun.SelectQuery) *bun.SelectQuery,
) ([]string, error) {
	return m.versions(ctx, s.quiet(), p.named, s.box.catalog.RowVersion(p.rewrites), lock)
}

// keptKeys refuses a statement that wrote other rows than those under the keys that it names.
func (s *session) keptKeys(ctx context.Context, c *captured, e effect) error {
	before := c.before
	if before == nil || c.isMissed(e) {
		return nil
	}
	after, err := before.read(ctx, s, c.model, current)
	if err != nil {
		return err
	}
	// the others have no key to look at
	wanted := int(e.affected) - (len(c.rows) - len(before.named))
	found := len(appeared(before.versions, after))
	switch inserts := c.insert != nil; {
	case before.rewrites || inserts && !c.updates():
	case !inserts: // which of the rows it wrote is not known
		wanted, found = len(before.versions), len(after)
	case s.box.db.Dialect().Name() == dialect.SQLite:
		// It inserts under the key in the text, or meets that row.
		wanted, found = len(before.named), len(after)
	}
	if found >= wanted {
		return nil
	}
	return unseen(c.verb, c.model.table.Name,
		fmt.Sprintf("a trigger may have given its rows other keys than it "+
			"names (%d of %d are found under theirs): add Returning with the key columns, and scan "+
			"them into the model, or write row by row", found, wanted))
}

// isMissed says that the flush itself misses each row that is not under its key, and that no other
// row can be there.
func (c *captured) isMissed(e effect) bool {
	all := e.affected >= int64(len(c.rows))
	switch {
	case c.insert == nil:
		return all
	case c.insert.conflict == conflictSkips:
		return false
	default:
		return len(c.before.versions) == 0 && (all || c.insert.conflict == conflictFails)
	}
}

// appeared lists the versions that were not there before.
func appeared(before, after []string) (added []string) {
	left := map[string]int{}
	for _, version := range before {
		left[version]++
	}
	for _, version := range after {
		if left[version] <= 0 {
			added = append(added, version)
		}
		left[version]--
	}
	return added
}
