package outbox

import (
	"context"
	"errors"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// guard is the hook on the user's bun.DB. It refuses writes to registered tables that are in no
// session of its box.
type guard struct{ box *Box }

func (g guard) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	s := sessionOf(event.DB)
	if s == nil && g.box.waitsForItself(ctx) {
		return refuse(ctx, event, besideTx(event))
	}
	if isExplicit(ctx) || s != nil && s.box == g.box {
		return ctx
	}
	j := judgementOf(event)
	for _, w := range j.writes {
		if refused := g.box.outside(s, event, w); refused != nil && w.rows() {
			return g.refuse(ctx, event, refused)
		}
	}
	if j.denied != "" && g.box.mayBeChanged(event, j) {
		return g.refuse(ctx, event, j.refusal())
	}
	return ctx
}

// refuse stops a statement, unless the box observes only.
func (g guard) refuse(
	ctx context.Context, event *bun.QueryEvent, refused *RefusedError,
) context.Context {
	if refused.Verb != "COPY" && g.box.observer.allowsNext(ctx, event.IQuery, refused) {
		return ctx
	}
	return refuse(ctx, event, refused)
}

// waitsForItself says that a statement beside the transaction, with the transaction's context,
// would never run: the pool has one connection, and that is the transaction's. As soon as the
// commit begins it waits for that only.
func (b *Box) waitsForItself(ctx context.Context) bool {
	s, within := ctx.Value(sessionKey{b}).(*session)
	if !within || s.over.Load() || b.db.Stats().MaxOpenConnections != 1 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.sealed
}

func (g guard) AfterQuery(ctx context.Context, event *bun.QueryEvent) { g.box.explain(ctx, event) }

// flushKey is in the context of the flush's own statements. Those of the functions that it calls, a
// Serializer's, run in the same transaction without it: they are judged as any others.
type flushKey struct{}

// captured is what BeforeQuery tells AfterQuery of a statement.
type captured struct {
	model *model // whose rows it writes, nil if it is none's
	verb  string
	// rows are those that it names, as they were before it ran: RETURNING writes over the caller's.
	rows    []reflect.Value
	insert  *insertion // of an INSERT
	watched []*model   // whose rows it writes, and whose triggers see them
	// under the keys of its rows, nil where no trigger can change a key unseen
	before  *placed
	whole   bool          // the rows are, after the statement, what their model says
	parents []touchedRow  // entities of other models to which its rows belong
	moved   []moved       // rows that may belong to others afterwards
	counted []counted     // rows of relations that its condition found
	point   savepointStep // it makes, ends or returns to a savepoint
}

// BeforeQuery lets a statement pass if it writes no registered table, or if AfterQuery will know
// its rows.
func (s *session) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	if ctx.Value(flushKey{}) == s || event.IQuery == nil && event.Query == "BEGIN" ||
		s.commits(event) {
		return ctx
	}
	if refused := s.isLost(event); refused != nil {
		return refusal{ctx, refused}
	}
	c, refused := s.capture(ctx, event)
	if refused != nil && !mustRefuse(event, refused) && s.box.observer.allows(ctx, refused) {
		s.doubtAll()
		c, refused = nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused == nil && s.sealed && c != nil {
		refused = lateWrite(event)
	}
	if refused != nil {
		s.refuse(refused)
		return refusal{ctx, refused}
	}
	if c != nil {
		if event.Stash == nil {
			event.Stash = map[any]any{}
		}
		event.Stash[s] = c
		s.running++
	}
	return ctx
}

// refuse keeps the first reason that forbids the commit.
func (s *session) refuse(err *RefusedError) {
	if s.refused == nil {
		s.refused = err
	}
}

// commits says that the statement is the COMMIT of RunInTx itself. Any other would commit rows
// without their messages: bun's Tx.Commit asks no context, so the transaction is rolled back under
// it.
func (s *session) commits(event *bun.QueryEvent) bool {
	if event.IQuery != nil || event.Query != "COMMIT" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sealed && s.tx.Tx != nil {
		s.refuse(endsTx(judgement{verb: "COMMIT"}))
		_ = s.tx.Tx.Rollback() // the refusal is what RunInTx returns
	}
	return s.sealed
}

// capture judges a statement before it runs. It returns nil, and no refusal, for one that needs no
// look at it afterwards.
func (s *session) capture(ctx context.Context, event *bun.QueryEvent) (*captured, *RefusedError) {
	explicit := isExplicit(ctx)
	if m := s.box.canonical(event); m != nil && !explicit && !s.box.hasTriggers(m) {
		return s.captureCanonical(ctx, event, m)
	}
	j := judgementOf(event)
	if j.ends {
		return nil, endsTx(j)
	}
	var c *captured
	if j.savepoint.verb != "" {
		c = &captured{point: j.savepoint}
	}
	tracked := 0
	for _, w := range j.writes {
		m, reason := s.box.target(event, w)
		if m != nil {
			tracked++
		}
		var refused *RefusedError
		switch {
		case m != nil && !w.rows():
			if !explicit {
				refused = unseen(w.verb, w.name(), "it changes which table the name means")
			}
		case m == nil:
			c, refused = s.captureRelated(ctx, event, w, c)
		case s.box.hasTriggers(m) && w.verb != "COPY": // a COPY would wait for ever to be fed
			tracked--
			if c == nil {
				c = &captured{verb: w.verb}
			}
			c.watched = append(c.watched, m)
			c, refused = s.captureRelated(ctx, event, w, c)
		case explicit:
			s.owe(m, w)
		case tracked > 1:
			refused = unseen(w.verb, w.name(), "it is one of several writes in one statement")
		default:
			c, refused = s.captureRows(ctx, event, w, m, reason)
		}
		if refused != nil {
			return nil, refused
		}
	}
	switch {
	case j.denied != "" && s.box.capturesAll():
	case j.denied != "" && !explicit:
		return nil, j.refusal()
	case j.denied != "":
		s.doubtAll()
	}
	return c, nil
}

// captureRows is capture for a statement that writes the table of one registered model. reason says
// why that is not the table that its model names, nothing where it is.
func (s *session) captureRows(
	ctx context.Context, event *bun.QueryEvent, w write, m *model, reason string,
) (*captured, *RefusedError) {
	if reason == "" {
		reason = m.whyUnseen(event, w)
	}
	if reason != "" {
		return nil, unseen(w.verb, w.name(), reason)
	}
	c := &captured{model: m, verb: "UPDATE"}
	switch event.IQuery.(type) {
	case *bun.InsertQuery:
		c.verb = "INSERT"
	case *bun.DeleteQuery:
		c.verb = "DELETE"
	}
	if refused := s.name(ctx, event, c); refused != nil {
		return nil, refused
	}
	return s.captureRelated(ctx, event, w, c)
}

// owe notes that the caller is to report rows of a model.
func (s *session) owe(m *model, w write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed[m] = unseen(w.verb, w.name(), "it ran under outbox.Explicit and no "+m.table.TypeName+
		" was reported with Saved or Deleted")
	s.doubtRows(m)
}

// doubtAll takes back what is certain of any row.
func (s *session) doubtAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.dirty {
		s.doubtRows(m)
	}
}

// name finds the rows that a statement names, before it runs.
func (s *session) name(ctx context.Context, event *bun.QueryEvent, c *captured) *RefusedError {
	m := c.model
	_ = eachRow(reflect.ValueOf(event.Model.Value()), func(row reflect.Value) error {
		c.rows = append(c.rows, m.copyOf(row))
		return nil
	})
	err := s.mayReplace(ctx, event, c)
	if err != nil {
		return unseen(c.verb, m.table.Name, err.Error())
	}
	switch c.verb {
	case "INSERT":
		var reason string
		if c.insert, reason = m.insertion(event, c.rows); reason != "" {
			return unseen(c.verb, m.table.Name, reason)
		}
		err = s.beforeTriggers(ctx, c)
	case "UPDATE":
		if len(c.rows) > 1 { // the flush misses a single one that is not there
			err = s.beforeTriggers(ctx, c)
		}
	case "DELETE":
		if !m.exactKeys() {
			if err = s.respell(ctx, m); err == nil {
				c.rows, err = m.found(ctx, s.quiet(), c.rows)
			}
		}
	}
	if err != nil {
		return unseen(c.verb, m.table.Name, "its rows could not be looked up: "+err.Error())
	}
	return nil
}

// mayReplace refuses a write of a table whose definition lets it delete rows that no statement
// names.
func (s *session) mayReplace(ctx context.Context, event *bun.QueryEvent, c *captured) error {
	if event.DB.Dialect().Name() != dialect.SQLite || c.verb == "DELETE" {
		return nil
	}
	traits, err := c.model.traits(ctx, s.box, s.quiet())
	if err == nil && traits.Replaces {
		err = errors.New("its definition has ON CONFLICT REPLACE or FAIL, by which it may delete " +
			"other rows or keep some when it fails: take that out of the table")
	}
	return err
}

// quiet is the session's transaction for lookups of the hooks, which no hook of the session sees.
func (s *session) quiet() bun.IDB { return sqlTx{s.box.db, s.tx.Tx} }
