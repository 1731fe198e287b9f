package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
)

// Superseding is a message with the older ones of its key that it replaces, oldest first. Its After is that of the oldest.
type Superseding struct {
	*Claimed
	Older []*Claimed
}

// Supersede removes the older messages from the outbox, and gives the newer ones their After there. Only when that is
// committed may a newer one leave: an older one that is still there may be read again, by whoever owns its lane then, and
// would leave for the first time behind the newer one (P4).
//
// gone is false if some of the older ones are still there: the lanes are no longer relay's, a row was changed by another
// statement at the same time, or the database gave up because of one (Conflicted). To call it again is right then, and
// after an error.
func (s *Store) Supersede(ctx context.Context, relay string, lanes []Lane, list []Superseding) (gone bool, err error) {
	gone = len(lanes) > 0
	size := func(m Superseding) int { return 64 * (1 + len(m.Older)) }
	for chunk := range chunkBySize(list, size, min(s.dialect.maxStatement(), maxSuperseded)) {
		if !gone {
			break
		}
		gone, err = s.supersede(ctx, supersession{relay, lanes, chunk})
		switch {
		case Conflicted(err):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("remove messages that %d newer ones replace: %w", len(list), err)
		}
	}
	return gone, nil
}

// maxSuperseded bounds the text of one statement.
const maxSuperseded = 256 << 10

// supersession is what one statement of a Supersede does.
type supersession struct {
	relay string
	lanes []Lane
	list  []Superseding
}

func (c supersession) older() (older []*Claimed) {
	for _, m := range c.list {
		older = append(older, m.Older...)
	}
	return older
}

func (s *Store) supersede(ctx context.Context, c supersession) (gone bool, err error) {
	older := c.older()
	removed, err := s.dialect.supersede(ctx, s, c)
	if err != nil || removed == len(older) {
		return err == nil, err
	}
	for _, m := range older {
		m.place = "" // it is looked up the next time
	}
	messages := s.table("outbox_messages")
	var left bool
	err = s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM ? WHERE "+s.dialect.claimedRows(string(messages), older)+")", messages).Scan(&left)
	return !left, err
}

// supersede is one statement, so that a process that is stopped leaves no transaction open. What it gives another after
// is somewhere else then.
func (p postgres) supersede(ctx context.Context, s *Store, c supersession) (removed int, err error) {
	messages, fence := s.table("outbox_messages"), s.fence(c.relay, c.lanes)
	var lanes, ids, afters []string
	for _, m := range c.list {
		after := "NULL"
		if m.After != nil {
			after = strconv.FormatInt(*m.After, 10)
		}
		lanes, ids, afters = append(lanes, strconv.Itoa(m.Lane)), append(ids, strconv.FormatInt(m.ID, 10)), append(afters, after)
	}
	array := func(values []string, of string) string { return "'{" + strings.Join(values, ",") + "}'::" + of + "[]" }
	var places []byte
	err = s.db.QueryRowContext(ctx, `
		WITH newer AS MATERIALIZED (
			SELECT m.place, l.id, l.after
			FROM unnest(`+array(lanes, "smallint")+`, `+array(ids, "bigint")+`, `+array(afters, "bigint")+`) AS l(lane, id, after)
			CROSS JOIN LATERAL (SELECT m.ctid AS place FROM ? AS m WHERE m.lane = l.lane AND m.id = l.id LIMIT 1) AS m),
		kept AS (
			UPDATE ? AS m SET after = newer.after FROM newer WHERE m.ctid = newer.place AND m.id = newer.id AND m.?
			RETURNING m.id, m.ctid AS place),
		removed AS (
			DELETE FROM ? WHERE `+p.claimedRows(string(messages), c.older())+` AND ? RETURNING 1)
		SELECT (SELECT count(*) FROM removed), (SELECT json_object_agg(id, place) FROM kept)`,
		messages, messages, fence, messages, fence).Scan(&removed, &places)
	if err != nil || places == nil {
		return removed, err
	}
	moved := map[int64]place{}
	if err := json.Unmarshal(places, &moved); err != nil {
		return removed, err
	}
	for _, m := range c.list {
		m.place = moved[m.ID]
	}
	return removed, nil
}

func (mysql) supersede(ctx context.Context, s *Store, c supersession) (int, error) {
	return s.supersedeInSteps(ctx, c)
}

func (sqlite) supersede(ctx context.Context, s *Store, c supersession) (int, error) {
	return s.supersedeInSteps(ctx, c)
}

// supersedeInSteps writes each after before it removes anything, and needs no transaction around both: a message that is
// still there under an after that is too low is seen as no gap.
func (s *Store) supersedeInSteps(ctx context.Context, c supersession) (removed int, err error) {
	messages, fence := s.table("outbox_messages"), s.fence(c.relay, c.lanes)
	run := func(statement string) (n int64, err error) {
		err = s.db.RunInTx(ctx, s.dialect.lanesOptions(), func(ctx context.Context, tx bun.Tx) error {
			done, err := tx.ExecContext(ctx, statement, messages, fence)
			if err == nil {
				n, err = done.RowsAffected()
			}
			return err
		})
		return n, err
	}
	for few := range slices.Chunk(c.list, maxCases) {
		var cases strings.Builder
		newer := make([]*Claimed, len(few))
		for i, m := range few {
			newer[i] = m.Claimed
			after := "NULL"
			if m.After != nil {
				after = strconv.FormatInt(*m.After, 10)
			}
			fmt.Fprintf(&cases, " WHEN %d THEN %s", m.ID, after)
		}
		if _, err := run("UPDATE ? SET after = CASE id" + cases.String() + " END WHERE " + idIn(newer) + " AND ?"); err != nil {
			return 0, err
		}
	}
	n, err := run("DELETE FROM ? WHERE " + idIn(c.older()) + " AND ?")
	return int(n), err
}

// maxCases bounds a CASE, which is read from its beginning for each row.
const maxCases = 200
