package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Superseding is a message with the older ones of its key that it replaces, oldest first. Its After
// is that of the oldest.
type Superseding struct {
	*Claimed
	Older []*Claimed
}

// Superseded is what became of one Superseding.
type Superseded int

const (
	// Standing says that the older ones are still there, because others hold one of them locked, which
	// says that it follows the one before it. To call Supersede again is right.
	Standing Superseded = iota
	// Gone says that none of the older ones is there any more, and the newer one has its After.
	Gone
	// Missing says that the newer one is not there for this relay: somebody removed it or
	// holds it locked, or the lanes are another's. Its older ones were left alone: nothing
	// would be left of what they say. Or another message has the identity of an older one,
	// since the database went back: then what the relay remembers of the key is not what is
	// there. To read the key anew is right.
	Missing
)

// Supersede removes the older messages from the outbox, and gives the newer ones their After there.
// Only when that is committed may a newer one leave: an older one that is still there may be read
// again, by whoever owns its lane then, and would leave for the first time behind the newer one
// (P4).
//
// It waits for no lock: what others hold keeps only its own key back. It does no harm to do it
// again.
func (q *Queue) Supersede(
	ctx context.Context, relay string, lanes []Lane, list []Superseding,
) ([]Superseded, error) {
	fates := make([]Superseded, 0, len(list))
	if len(lanes) == 0 {
		return slices.Repeat([]Superseded{Missing}, len(list)), nil
	}
	size := func(m Superseding) int {
		return (80 + 2*len(m.Key) + 2*len(m.Model)) * (1 + len(m.Older))
	}
	for chunk := range db.ChunkBySize(list, size, min(q.dialect.MaxStatement(), maxSuperseded)) {
		c := supersession{relay: relay, lanes: lanes, list: chunk, kept: map[int64]place{},
			removed: map[int64]bool{}}
		err := q.dialect.supersede(ctx, q, &c)
		if err == nil {
			err = q.findStanding(ctx, &c)
		}
		if err != nil && !db.Conflicted(err) {
			return nil, fmt.Errorf("remove messages that newer ones replace: %w", err)
		}
		for _, m := range chunk {
			fates = append(fates, c.fate(m, err == nil))
		}
	}
	return fates, nil
}

// maxSuperseded bounds the text of one statement.
const maxSuperseded = 256 << 10

// supersession is one part of a Supersede, and what came of it.
type supersession struct {
	relay string
	lanes []Lane
	list  []Superseding

	kept     map[int64]place // newer ones, and where they are then
	removed  map[int64]bool  // older ones
	standing map[int64]bool  // older ones that were neither removed nor gone
	replaced map[int64]bool  // identities of older ones that other messages have
}

func (c *supersession) fate(m Superseding, committed bool) Superseded {
	if !committed {
		return Standing
	}
	at, kept := c.kept[m.ID]
	if !kept {
		return Missing
	}
	m.place = at
	if slices.ContainsFunc(m.Older, func(old *Claimed) bool { return c.replaced[old.ID] }) {
		return Missing
	}
	if slices.ContainsFunc(m.Older, func(old *Claimed) bool { return c.standing[old.ID] }) {
		return Standing
	}
	return Gone
}

// findStanding looks for the older ones that were not removed. Mostly there are none.
func (q *Queue) findStanding(ctx context.Context, c *supersession) error {
	left := map[int64]*Claimed{}
	var ids, lanes []int64
	for _, m := range c.list {
		for _, old := range m.Older {
			if _, kept := c.kept[m.ID]; kept && !c.removed[old.ID] {
				ids, lanes = append(ids, old.ID), append(lanes, int64(old.Lane))
				left[old.ID] = old
			}
		}
	}
	c.standing, c.replaced = map[int64]bool{}, map[int64]bool{}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(lanes)
	rows, err := q.DB().QueryContext(ctx, q.SQL(`SELECT `+identityColumns(q.dialect)+` FROM ?
		WHERE lane IN (?) AND id IN (?)`),
		q.Table("outbox_messages"), bun.List(slices.Compact(lanes)), bun.List(ids))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		id, same, err := scanIdentity(rows, left)
		if err != nil {
			return err
		}
		c.standing[id], c.replaced[id] = same, !same
	}
	return rows.Err()
}

// identityColumns are what tells a message from another one that has its
// identity after the database went back.
func identityColumns(d db.Dialect) string {
	return `id, model, "key", revision, ` + d.Micros("created_at")
}

// scanIdentity reads them, and says whether they are those of the message that had the identity.
func scanIdentity(rows *sql.Rows, expected map[int64]*Claimed) (id int64, same bool, err error) {
	var m Message
	var created int64
	if err := rows.Scan(&m.ID, &m.Model, &m.Key, &m.Revision, &created); err != nil {
		return 0, false, err
	}
	was := expected[m.ID]
	return m.ID, m.Model == was.Model && m.Key == was.Key && m.Revision == was.Revision &&
		created == was.Created.UnixMicro(), nil
}

// supersedingRows are messages as PostgreSQL unnests them.
type supersedingRows struct {
	lanes, ids, created, revisions, newer, afters, models, keys db.Array
}

// add adds a message, which that of identity by replaces, or is.
func (r *supersedingRows) add(m *Claimed, by int64, after *int64) {
	r.lanes.Add(strconv.Itoa(m.Lane))
	r.ids.Add(strconv.FormatInt(m.ID, 10))
	r.created.Add(strconv.FormatInt(m.Created.UnixMicro(), 10))
	r.revisions.Add(strconv.FormatInt(m.Revision, 10))
	r.newer.Add(strconv.FormatInt(by, 10))
	if after == nil {
		r.afters.AddNull()
	} else {
		r.afters.Add(strconv.FormatInt(*after, 10))
	}
	r.models.Add(m.Model)
	r.keys.Add(m.Key)
}

// supersede is one statement, so that a process that is stopped leaves no transaction open. What it
// gives another after is somewhere else then.
func (p postgres) supersede(ctx context.Context, q *Queue, c *supersession) error {
	var rows supersedingRows
	for _, m := range c.list {
		rows.add(m.Claimed, m.ID, m.After)
		for _, old := range m.Older {
			rows.add(old, m.ID, nil)
		}
	}
	messages := q.Table("outbox_messages")
	var kept, removed []byte
	err := q.DB().QueryRowContext(ctx, `
		WITH l AS MATERIALIZED (
			SELECT * FROM unnest(
				?::smallint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[],
				?::text[], ?::text[])
				AS l(lane, id, created, revision, newer, after, model, key)),
		found AS MATERIALIZED (
			SELECT m.place, l.id, l.newer, l.after FROM l
			CROSS JOIN LATERAL (
				SELECT m.ctid AS place FROM ? AS m
				WHERE m.lane = l.lane AND m.id = l.id AND m.revision = l.revision
					AND m.model = l.model AND m.key = l.key
					AND `+p.Micros("m.created_at")+` = l.created
				LIMIT 1 FOR UPDATE SKIP LOCKED) AS m
			WHERE l.?),
		held AS MATERIALIZED (
			SELECT l.newer FROM l JOIN ? AS m ON m.lane = l.lane AND m.id = l.id
			WHERE (SELECT count(*) FROM found) < (SELECT count(*) FROM l)
				AND l.id NOT IN (SELECT id FROM found)),
		kept AS (
			UPDATE ? AS m SET after = found.after FROM found
			WHERE m.ctid = found.place AND found.id = found.newer
			RETURNING m.id, m.ctid AS place),
		removed AS (
			DELETE FROM ? WHERE ctid = ANY (ARRAY(
				SELECT place FROM found WHERE id <> newer AND newer IN (SELECT id FROM found WHERE id = newer)
					AND newer NOT IN (SELECT newer FROM held)))
			RETURNING id)
		SELECT (SELECT json_object_agg(id, place) FROM kept), (SELECT json_agg(id) FROM removed)`,
		rows.lanes.Literal(), rows.ids.Literal(), rows.created.Literal(), rows.revisions.Literal(),
		rows.newer.Literal(), rows.afters.Literal(), rows.models.Literal(), rows.keys.Literal(),
		messages, q.fence(c.relay, c.lanes), messages, messages, messages).Scan(&kept, &removed)
	if err != nil || kept == nil {
		return err
	}
	if err := json.Unmarshal(kept, &c.kept); err != nil || removed == nil {
		return err
	}
	var gone []int64
	err = json.Unmarshal(removed, &gone)
	for _, id := range gone {
		c.removed[id] = true
	}
	return err
}

func (mariadb) supersede(ctx context.Context, q *Queue, c *supersession) error {
	return q.supersedeInSteps(ctx, c)
}

func (sqlite) supersede(ctx context.Context, q *Queue, c *supersession) error {
	return q.supersedeInSteps(ctx, c)
}
