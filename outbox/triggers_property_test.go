package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// Sessions of Go, plain SQL of other programs, and sweeps, all on the same few keys at once: the
// messages of a key leave in the order of its revisions, none is missing, and the last one is what
// the table holds.
func TestTriggersKeepTheOrderOfAllWriters(t *testing.T) {
	eachBare(t, func(f fixture) {
		seed := rand.Uint64()
		f.Logf("seed %d", seed)
		const writers, rounds, keys = 4, 25, 5
		var group sync.WaitGroup
		failed := make(chan error, writers+1)
		for w := range writers {
			group.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(w)))
				for range rounds {
					if err := f.writesAsAnybody(random, keys, w%2 == 0); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		ctx, stop := context.WithCancel(f.Context())
		swept := make(chan error, 1)
		go func() { swept <- f.box.RunSweep(ctx, time.Millisecond) }()
		group.Wait()
		stop()
		require.NoError(f, <-swept)
		close(failed)
		require.NoError(f, <-failed)
		_, err := f.box.Sweep(f.Context())
		require.NoError(f, err)
		f.requireOrdered()
	})
}

// writesAsAnybody is one transaction of a few random statements.
func (f fixture) writesAsAnybody(random *rand.Rand, keys int, sessions bool) error {
	var statements []string
	for range 1 + random.IntN(3) {
		id, name := random.IntN(keys)+1, fmt.Sprint(random.Uint32())
		switch random.IntN(4) {
		case 0:
			statements = append(statements, fmt.Sprintf("DELETE FROM items WHERE id = %d", id))
		case 1:
			statements = append(statements, fmt.Sprintf("UPDATE items SET name = '%s' WHERE id >= %d", name, id))
		default:
			statements = append(statements, fmt.Sprintf("DELETE FROM items WHERE id = %d", id),
				fmt.Sprintf("INSERT INTO items (id, name) VALUES (%d, '%s')", id, name))
		}
	}
	write := f.tryAll
	if sessions {
		write = f.tryAllInSession
	}
	for {
		err := write(statements)
		if err == nil || !isConflict(err) {
			return err
		}
	}
}

func (f fixture) tryAllInSession(statements []string) error {
	return f.inTx(func(ctx context.Context, tx bun.Tx) error {
		for _, statement := range statements {
			if err := exec(tx.NewRaw(statement).Exec(ctx)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f fixture) tryAll(statements []string) error {
	tx, err := f.db.DB.BeginTx(f.Context(), nil)
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := tx.ExecContext(f.Context(), statement); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// requireOrdered checks all messages of items.
func (f fixture) requireOrdered() {
	f.Helper()
	var rows []Item
	require.NoError(f, f.db.NewSelect().Model(&rows).Scan(f.Context()))
	state := map[string]string{}
	for _, row := range rows {
		state[fmt.Sprint(row.ID)] = row.Name
	}
	next, last := map[string]int64{}, map[string]message{}
	for _, m := range f.take() { // in the order of their identities
		revision, known := next[m.Key]
		if known {
			require.Equal(f, revision, m.Revision, "key %s", m.Key)
		}
		next[m.Key], last[m.Key] = m.Revision+1, m
	}
	require.NotEmpty(f, last)
	for key, m := range last {
		name, exists := state[key]
		require.Equal(f, exists, m.Signal == "SAVE", "key %s", key)
		if exists {
			var data struct{ Name string }
			require.NoError(f, json.Unmarshal(m.Data, &data))
			require.Equal(f, name, data.Name, "key %s", key)
		}
		delete(state, key)
	}
	require.Empty(f, state, "rows without a message")
}

func isConflict(err error) bool {
	var pg interface{ SQLState() string }
	if errors.As(err, &pg) {
		return pg.SQLState() == "40P01" || pg.SQLState() == "40001" || pg.SQLState() == "23505"
	}
	text := err.Error()
	for _, part := range []string{"1213", "1205", "1020", "1062", "SQLITE_BUSY", "database is locked", "UNIQUE"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// Two transactions that touch the same aggregates in different orders, through rows of their own,
// do not wait for each other.
func TestTriggersDoNotDeadlockWhereTheRowsDoNot(t *testing.T) {
	eachBare(t, func(f fixture) {
		if f.db.Dialect().Name() == dialect.SQLite {
			return // it has one writer
		}
		lines := string(f.db.QueryGen().AppendIdent(nil, "lines"))
		f.raw("INSERT INTO orders (id, number) VALUES (1, 'a')")
		f.raw("INSERT INTO orders (id, number) VALUES (2, 'b')")
		begin := func(id, order int) func(statement string) error {
			tx, err := f.db.DB.BeginTx(f.Context(), nil)
			require.NoError(f, err)
			f.Cleanup(func() { _ = tx.Rollback() })
			_, err = tx.ExecContext(f.Context(), fmt.Sprintf("INSERT INTO %s (id, order_id) VALUES (%d, %d)", lines, id, order))
			require.NoError(f, err)
			return func(statement string) error {
				if statement == "" {
					return tx.Commit()
				}
				_, err := tx.ExecContext(f.Context(), statement)
				return err
			}
		}
		one, two := begin(1, 1), begin(2, 2)
		require.NoError(f, one(fmt.Sprintf("INSERT INTO %s (id, order_id) VALUES (3, 2)", lines)))
		require.NoError(f, two(fmt.Sprintf("INSERT INTO %s (id, order_id) VALUES (4, 1)", lines)))
		require.NoError(f, one(""))
		require.NoError(f, two(""))
		_, err := f.box.Sweep(f.Context())
		require.NoError(f, err)
		require.NotEmpty(f, f.take())
	})
}
