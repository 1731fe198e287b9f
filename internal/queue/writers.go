package queue

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

// Writers are the transactions that may have added messages and are still open, prepared ones
// (two-phase commit) too. Those that do not touch the outbox are not among them, however long they
// are open.
type Writers struct {
	Open map[string]bool
	// Drawn: what has an identity up to here and is not of a transaction in Open is committed, or
	// never will be. 0 if the database does not tell.
	Drawn int64
}

// recovered begins the name of a prepared transaction that a restart of the database brought back.
const recovered = "-1/"

// Left returns those of the listed writers that are still open. A prepared transaction gets another
// name when the database restarts, under which it may be any of those that were listed: so it
// counts as one of them, or what it commits later would be looked for behind it.
func (w Writers) Left(listed []string) []string {
	left := slices.DeleteFunc(slices.Clone(listed), func(writer string) bool {
		return !w.Open[writer]
	})
	if len(listed) == 0 {
		return left
	}
	for writer := range w.Open {
		if strings.HasPrefix(writer, recovered) && !slices.Contains(left, writer) {
			left = append(left, writer)
		}
	}
	return left
}

// Writers lists who is writing. A message with a lower identity than one that was read can only
// come from a transaction that was open then. So once none of those listed is open any more, a
// further read has seen everything up to Drawn, and up to where the read before the list came.
//
// ok is false where the database cannot tell.
func (q *Queue) Writers(ctx context.Context) (w Writers, ok bool, err error) {
	query := q.dialect.writers(string(q.Table("outbox_messages")))
	if query == "" {
		return Writers{}, false, nil
	}
	rows, err := q.DB().QueryContext(ctx, query)
	if err == nil {
		w, err = scanWriters(rows)
	}
	if err != nil {
		return Writers{}, false, fmt.Errorf("list the transactions that write to the outbox: %w",
			err)
	}
	return w, true, nil
}

func scanWriters(rows *sql.Rows) (Writers, error) {
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	w := Writers{Open: map[string]bool{}}
	for rows.Next() {
		var writer *string
		if err := rows.Scan(&w.Drawn, &writer); err != nil {
			return Writers{}, err
		}
		if writer != nil {
			w.Open[*writer] = true
		}
	}
	return w, rows.Err()
}

// WaitingLanes says which lanes have keys that wait for another attempt. When there are very many
// of them, it is all.
func (q *Queue) WaitingLanes(ctx context.Context) (waiting func(lane int) bool, err error) {
	keys, err := q.waitingKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list waiting keys: %w", err)
	}
	found := map[int]bool{}
	if len(keys) > 0 { // nearly never, and a relay with a backlog asks all the time
		// not as it was: a low-water mark that moves too far loses the order
		lanes, err := q.lanes.Read(ctx, q.DB())
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			found[lanes.Lane(key.Model, key.Key)] = true
		}
	}
	return func(lane int) bool { return len(keys) > maxWaiting || found[lane] }, nil
}

const maxWaiting = 10_000

// waitingKeys lists them, up to one more than maxWaiting.
func (q *Queue) waitingKeys(ctx context.Context) (keys []Key, err error) {
	rows, err := q.DB().QueryContext(ctx, q.SQL(`SELECT model, "key" FROM ? LIMIT ?`),
		q.Table("outbox_retries"), maxWaiting+1)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var key Key
		if err := rows.Scan(&key.Model, &key.Key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}
