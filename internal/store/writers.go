package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Writers lists the transactions that may have added messages and are still open. A message with a lower identity than
// one that was read can only come from a transaction that was open then. So once none of those listed after a read is
// open any more, a further read has seen everything up to where the first one came.
//
// ok is false where the database cannot tell. Transactions that do not touch the outbox are not listed, however long they
// are open.
func (s *Store) Writers(ctx context.Context) (writers []string, ok bool, err error) {
	query := s.dialect.writers(string(s.table("outbox_messages")))
	if query == "" {
		return nil, false, nil
	}
	rows, err := s.db.QueryContext(ctx, query)
	if err == nil {
		writers, err = scanStrings(rows)
	}
	if err != nil {
		return nil, false, fmt.Errorf("list the transactions that write to the outbox: %w", err)
	}
	return writers, true, nil
}

// WaitingLanes says which lanes have keys that wait for another attempt. When there are very many of them, it is all.
func (s *Store) WaitingLanes(ctx context.Context) (waiting func(lane int) bool, err error) {
	lanes, err := s.readNumbering(ctx, s.db) // not as it was: a floor that moves too far loses the order
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, s.sql(`SELECT model, "key" FROM ? LIMIT ?`), s.table("outbox_retries"), maxWaiting+1)
	if err != nil {
		return nil, fmt.Errorf("list waiting keys: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	keys := 0
	found := map[int]bool{}
	for ; rows.Next(); keys++ {
		var key Key
		if err := rows.Scan(&key.Model, &key.Key); err != nil {
			return nil, fmt.Errorf("list waiting keys: %w", err)
		}
		found[lanes.of(key.Model, key.Key)] = true
	}
	return func(lane int) bool { return keys > maxWaiting || found[lane] }, rows.Err()
}

const maxWaiting = 10_000

func scanStrings(rows *sql.Rows) (list []string, err error) {
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		list = append(list, text)
	}
	return list, errors.Join(rows.Err(), rows.Close())
}
