package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Claimed is a message on its way to the broker.
type Claimed struct {
	Message
	// Attempts is how often this message has failed already. One that may replace the message that
	// failed begins anew.
	Attempts int
	// Failed says that a message of the key has failed, for whatever reason, and the key is in
	// outbox_retries.
	Failed bool
	// Waiting says that the key waits because an older message of it failed, and that this one may
	// replace that: see MakeDue.
	Waiting bool
	// Invalid says why the row is no message, nil if it is one. It is a failure of this row alone
	// (P9).
	Invalid error

	place place
}

// place is where a row is, if the database finds it faster so than by its lane and id: a ctid of
// PostgreSQL, "(page,row)".
type place string

// Start says where in a lane a claim starts: at the first message behind After.
type Start struct {
	Lane  int
	After int64
}

// Except is what a claim leaves out because it was claimed before: single messages, and keys with
// all of theirs.
type Except struct {
	IDs  []int64
	Keys []Key
}

// maxClaimBytes bounds the payload that one claim brings into memory, whatever its number of
// messages.
const maxClaimBytes = 4 << 20

// Claim reads the oldest unsent messages of each lane behind its start, at most perLane of each:
// lane by lane as they are listed, and in a lane in the order of the identity, which per key is the
// order of revisions. Of keys that wait in outbox_retries only messages come that end the wait
// (Waiting). unread are the lanes that were not read that far, because the claim had grown too
// large.
//
// A start may be moved on only past what is known to be complete (see Writers): behind a message
// that was committed late there may be the next one of its key, which must not go first.
//
// It takes no lock; whoever owns the lane is the only one who reads it. It takes from every lane,
// so that a large backlog in one holds up no other, and because what was written at the same time
// lies side by side in the table.
func (q *Queue) Claim(
	ctx context.Context, starts []Start, perLane int, except Except,
) (claimed []*Claimed, unread []int, err error) {
	return q.claimTrusting(ctx, starts, perLane, except, 0)
}

// Glance is Claim for whoever concludes nothing from finding nothing: whether that is because
// another server answers is not asked each time.
func (q *Queue) Glance(
	ctx context.Context, starts []Start, perLane int, except Except,
) (claimed []*Claimed, unread []int, err error) {
	return q.claimTrusting(ctx, starts, perLane, except, serverAsked)
}

// claimTrusting claims. An answer that is younger than trusted tells which server it is.
func (q *Queue) claimTrusting(
	ctx context.Context, starts []Start, perLane int, except Except, trusted time.Duration,
) (claimed []*Claimed, unread []int, err error) {
	if len(starts) == 0 {
		return nil, nil, nil
	}
	c := &claim{
		starts: starts, perLane: perLane, except: except, trusted: trusted,
		inOrder: perLane > Short && q.dialect.inOrder() != "",
	}
	if err := q.claim(ctx, c); err != nil {
		return nil, nil, fmt.Errorf("claim messages: %w", err)
	}
	return c.claimed, c.unread, nil
}

// claim is the statement of a Claim.
type claim struct {
	starts  []Start
	perLane int
	inOrder bool // the database has to be told to read so many by the index
	except  Except
	trusted time.Duration // see claimTrusting

	claimed []*Claimed
	size    int // bytes of their payloads
	unread  []int
}

// Short is how many messages of a lane are few: so few that no database would rather read a long
// lane whole, and a claim is one statement. With more it is a transaction of its own, because the
// database has to be told.
const Short = 50

func (q *Queue) claim(ctx context.Context, c *claim) (err error) {
	conn, err := q.DB().Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if !c.inOrder {
		return q.readClaim(ctx, conn, c)
	}
	return conn.RunInTx(ctx, q.dialect.LanesOptions(), func(ctx context.Context, tx bun.Tx) error {
		// Bounded like any other, for nobody can change the tables while it is open.
		if _, err := tx.ExecContext(ctx, q.Bounds().SetLocal()+q.dialect.inOrder()); err != nil {
			return err
		}
		// in this transaction, because it is open on this connection
		return q.readClaim(ctx, conn, c)
	})
}

// rowsExpected saves the copying of large rows while a claim grows.
const rowsExpected = 256

// errLarge ends the reading of a claim that has grown too large.
var errLarge = errors.New("large")

func (q *Queue) readClaim(ctx context.Context, conn bun.Conn, c *claim) error {
	var args []any
	if len(c.except.Keys) > 0 {
		args = []any{db.Tuples(c.except.Keys)}
	}
	c.claimed = make([]*Claimed, 0, rowsExpected)
	row := q.newClaimedRow()
	err := q.readRows(ctx, conn, row.columns, func() error {
		m := row.message()
		c.claimed = append(c.claimed, m)
		if c.size += len(m.Data) + len(m.Previous) + len(m.Meta); c.size > maxClaimBytes {
			c.leave(m.Lane)
			return errLarge
		}
		return nil
	}, q.claimQuery(c.starts, c.perLane, c.except), args...)
	switch {
	case errors.Is(err, errLarge):
		return nil
	case err == nil && len(c.claimed) == 0 && !q.timeline.answeredWithin(c.trusted):
		return q.requireServer(ctx, conn)
	}
	return err
}

// serverAsked is for how long a glance takes it for granted that the same server answers. A renewal
// of the lease asks, too, and nearly always earlier.
const serverAsked = 5 * time.Second

// leave notes that the claim ends in this lane.
func (c *claim) leave(lane int) {
	first := slices.IndexFunc(c.starts, func(s Start) bool { return s.Lane == lane })
	for _, s := range c.starts[first:] {
		c.unread = append(c.unread, s.Lane)
	}
}

// claimQuery reads retries in subqueries that cannot be flattened into a join, on purpose: each
// lane stays a range scan of the index (lane, id) that stops at its limit, however large the
// backlog is. A hash join would read it whole. Nearly always nothing waits at all; every database
// finds that out once per claim, not once per row.
func (q *Queue) claimQuery(starts []Start, perLane int, except Except) string {
	table := string(q.Table("outbox_retries"))
	some := "(SELECT EXISTS (SELECT 1 FROM " + table + "))"
	ofKey := " FROM " + table + q.SQL(` AS r WHERE r.model = m.model AND r."key" = m."key")`)
	// One time for all: were a key's wait over for the later rows only, they would leave before the
	// others (P4).
	ready := "r.next_attempt_at <= " + q.dialect.Steady()
	// The attempts are those of the message that failed and of those before it: message_id is
	// beyond all of the key where nothing may replace it. A message that waits is -1.
	attempts := "CASE WHEN NOT " + ready +
		" THEN -1 WHEN m.id > r.message_id THEN 0 ELSE r.attempts END"
	due := "(NOT " + some + " OR coalesce((SELECT " + ready + " OR (m.id > r.message_id AND " +
		q.SQL(replaceable) + ")" + ofKey + ", TRUE))"
	if len(except.Keys) > 0 {
		due = q.SQL(`(m.model, m."key") NOT IN (?0) AND `) + due
	}
	if len(except.IDs) > 0 {
		due = q.dialect.notIn("m.id", except.IDs) + " AND " + due
	}
	return `
		SELECT ` + q.claimColumns() + `,
			CASE WHEN ` + some + ` THEN (SELECT ` + attempts + ofKey + ` END
		FROM ` + q.dialect.oldestPerLane(string(q.Table("outbox_messages")), due, starts, perLane) + `
		WHERE ` + q.sameServer() + ` ORDER BY ` + q.dialect.orderOfClaim()
}

// replaceable is the condition for a message m that a newer one of its key replaces, and that
// replaces older ones.
const replaceable = `NOT m.keep AND m.previous IS NULL AND m.queue IS NULL ` +
	`AND m."signal" IN ('SAVE', 'DELETE')`

// claimColumns are those of a message m, as a claimedRow reads them before the attempts.
func (q *Queue) claimColumns() string {
	micros := q.dialect.Micros
	if _, ok := q.binary(); ok {
		micros = func(column string) string { return column } // is what the format has
	}
	return q.dialect.place("m") + q.SQL(`, m.id, m.lane, m.model, m."key", m.revision, m.after,
			m."signal", m.queue, m.pk, m.data,
			m.previous, m.meta, m.headers, m.correlation_id, m.keep, `) +
		micros("m.updated_at") + `, ` + micros("m.created_at") + `, ` + micros("m.expires_at")
}

// claimedRow is where the rows of a claim are read into, one after the other. What it reads into is
// listed once, and is of the types that database/sql copies without a detour.
type claimedRow struct {
	m       Claimed
	epoch   int64 // of the times, in microseconds since 1970
	columns []any

	lane, updated, created          int64
	after, expires, attempts        sql.NullInt64
	queue, pk, data, previous, meta []byte
	headers, correlation            []byte
}

func (q *Queue) newClaimedRow() *claimedRow {
	r := &claimedRow{}
	if _, ok := q.binary(); ok {
		r.epoch = binaryEpoch
	}
	r.columns = []any{
		&r.m.place, &r.m.ID, &r.lane, &r.m.Model, &r.m.Key, &r.m.Revision, &r.after, &r.m.Signal,
		&r.queue, &r.pk, &r.data, &r.previous, &r.meta, &r.headers, &r.correlation, &r.m.Keep,
		&r.updated, &r.created, &r.expires, &r.attempts,
	}
	return r
}

// message is what was read last.
func (r *claimedRow) message() *Claimed {
	m := r.m
	m.Lane, m.Queue, m.CorrelationID = int(r.lane), string(r.queue), string(r.correlation)
	m.PK, m.Data, m.Previous, m.Meta = r.pk, r.data, r.previous, r.meta
	m.Updated, m.Created = time.UnixMicro(r.epoch+r.updated).UTC(), time.UnixMicro(r.epoch+
		r.created).UTC()
	if r.after.Valid {
		m.After = new(r.after.Int64)
	}
	if r.expires.Valid {
		m.Expires = time.UnixMicro(r.epoch + r.expires.Int64).UTC()
	}
	m.Attempts, m.Failed, m.Waiting = int(max(r.attempts.Int64,
		0)), r.attempts.Valid, r.attempts.Int64 < 0
	if len(r.headers) > 0 {
		if err := json.Unmarshal(r.headers, &m.Headers); err != nil {
			m.Invalid = fmt.Errorf("headers of outbox message %d: %w", m.ID, err)
		}
	}
	return &m
}
