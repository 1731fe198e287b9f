package operate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// world is two models of two masters' tables, kept in one table of a replica, whose keys have a
// type of their own there. Rows 0 to stable-1 of each are never deleted; those up to all-1 come and
// go.
type world struct {
	*testing.T
	master, copies *bun.DB
	box            *outbox.Box
	rep            *replica.Replica
	types          keyTypes
	random         *rand.Rand
}

const (
	stable = 12
	all    = 20
)

// literal is the n-th key as SQL.
func literal(types keyTypes, n int) string {
	pair := types.on + " " + types.off
	switch {
	case strings.Contains(pair, "uuid"):
		return fmt.Sprintf("'%08x-d477-44e4-82c4-310f56faa3c7'", n)
	case strings.Contains(pair, "date"), strings.Contains(pair, "timestamp"):
		return "'" + time.Date(2026, 1, 1+n, 0, 0, 0, 0, time.UTC).Format(time.DateOnly) + "'"
	case strings.Contains(pair, ",2)"):
		return "'" + strconv.Itoa(n) + ".50'" // as a text it is the key of a numeric(10,2)
	case strings.Contains(types.on, "char(8)"):
		return "'k" + strconv.Itoa(n) + "'"
	}
	return "'" + strconv.Itoa(n) + "'"
}

func newWorld(t *testing.T, master, copies *bun.DB, types keyTypes, inKey bool, random *rand.Rand) *world {
	t.Helper()
	w := &world{T: t, master: master, copies: copies, types: types, random: random}
	key := "id " + types.off + " PRIMARY KEY, source varchar(4)"
	if inKey {
		key = "source varchar(4), id " + types.off + ", PRIMARY KEY (source, id)"
	}
	for _, model := range []string{"a", "b"} {
		w.exec(master, "CREATE TABLE parcels_"+model+" (id "+types.on+" PRIMARY KEY, v varchar(40))")
	}
	if inKey {
		w.exec(copies, "CREATE TABLE parcels (v varchar(40), "+key+")")
	} else {
		w.exec(copies, "CREATE TABLE parcels ("+key+", v varchar(40))")
	}
	m, err := manifest.Parse([]byte("models: {a: {table: parcels_a}, b: {table: parcels_b}}"))
	require.NoError(t, err)
	w.box, err = m.Box(t.Context(), master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, w.box.Migrate(t.Context()))
	m, err = manifest.Parse([]byte("queue: q\nmodels:\n  a: {table: parcels, constants: {source: a}}\n" +
		"  b: {table: parcels, constants: {source: b}}"))
	require.NoError(t, err)
	w.rep, err = m.Replica(t.Context(), copies, replica.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, w.rep.Migrate(t.Context()))
	w.watchDeletes()
	return w
}

func (w *world) exec(db *bun.DB, statement string) {
	w.Helper()
	_, err := db.DB.ExecContext(w.Context(), statement)
	require.NoError(w, err, statement)
}

// watchDeletes has the replica's database note every row that is deleted.
func (w *world) watchDeletes() {
	w.exec(w.copies, "CREATE TABLE gone (v varchar(40))")
	switch w.copies.Dialect().Name().String() {
	case "pg":
		w.exec(w.copies, "CREATE FUNCTION note_gone() RETURNS trigger LANGUAGE plpgsql AS "+
			"$$BEGIN INSERT INTO gone VALUES (old.v); RETURN old; END$$")
		w.exec(w.copies, "CREATE TRIGGER gone AFTER DELETE ON parcels FOR EACH ROW EXECUTE FUNCTION note_gone()")
	case "mysql":
		w.exec(w.copies, "CREATE TRIGGER gone AFTER DELETE ON parcels FOR EACH ROW INSERT INTO gone VALUES (old.v)")
	default:
		w.exec(w.copies, "CREATE TRIGGER gone AFTER DELETE ON parcels BEGIN INSERT INTO gone VALUES (old.v); END")
	}
}

// list returns a column of texts.
func (w *world) list(db *bun.DB, query string) (list []string) {
	w.Helper()
	rows, err := db.DB.QueryContext(w.Context(), query)
	require.NoError(w, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var text string
		require.NoError(w, rows.Scan(&text))
		list = append(list, text)
	}
	require.NoError(w, rows.Err())
	return list
}

// write saves or deletes the n-th row of a model on the master.
func (w *world) write(ctx context.Context, model string, n int, v string, remove bool) error {
	table, err := boxed.Of(w.box).Model(model)
	if err != nil {
		return err
	}
	key := literal(w.types, n)
	row := reflect.New(table.Type)
	if err := table.PKs[0].ScanValue(row.Elem(), []byte(strings.Trim(key, "'"))); err != nil {
		return err
	}
	name, where := "parcels_"+model, " WHERE id = "+key
	return w.box.RetryInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		ours := outbox.Explicit(ctx)
		if remove {
			if _, err := tx.ExecContext(ours, "DELETE FROM "+name+where); err != nil {
				return err
			}
			return w.box.Deleted(ctx, tx, row.Interface())
		}
		there, err := tx.NewSelect().Table(name).Where("id = ?", bun.Safe(key)).Exists(ctx)
		if err != nil {
			return err
		}
		statement := "INSERT INTO " + name + " (id, v) VALUES (" + key + ", '" + v + "')"
		if there {
			statement = "UPDATE " + name + " SET v = '" + v + "'" + where
		}
		if _, err := tx.ExecContext(ours, statement); err != nil {
			return err
		}
		return w.box.Saved(ctx, tx, row.Interface())
	})
}

// number keeps the keys of two models apart where they share one key column.
func number(model string, n int) int {
	if model == "b" {
		return n + 500
	}
	return n
}

func (w *world) fill() {
	w.Helper()
	for _, model := range []string{"a", "b"} {
		for n := range all {
			v := fmt.Sprintf("stable %s %d", model, n)
			if n >= stable {
				v = fmt.Sprintf("volatile %s %d", model, n)
			}
			require.NoError(w, w.write(w.Context(), model, number(model, n), v, false))
		}
	}
	carry(w.Context(), w, w.master, w.rep)
}

// drift makes the replica differ in every way that does not need a master of another time.
func (w *world) drift() {
	w.Helper()
	for range 10 {
		model := []string{"a", "b"}[w.random.IntN(2)]
		n := w.random.IntN(stable)
		row := fmt.Sprintf("v LIKE 'stable %s %d%%'", model, n)
		switch w.random.IntN(6) {
		case 0:
			w.exec(w.copies, "DELETE FROM parcels WHERE "+row)
		case 1:
			w.exec(w.copies, "UPDATE parcels SET v = 'stable drifted' WHERE "+row)
		case 2:
			phantom := number(model, 100+w.random.IntN(200))
			if w.list(w.copies, "SELECT v FROM parcels WHERE source = '"+model+"' AND id = "+
				literal(w.types, phantom)) == nil {
				w.exec(w.copies, fmt.Sprintf("INSERT INTO parcels (source, id, v) VALUES ('%s', %s, 'phantom')",
					model, literal(w.types, phantom)))
			}
		case 3: // the ledger forgets some keys, and half of them have no row either
			keys := w.list(w.copies, `SELECT `+w.quoted("key")+` FROM replica_revisions WHERE model = '`+model+`'`)
			for _, key := range keys[:w.random.IntN(len(keys)+1)/3] {
				w.exec(w.copies, `DELETE FROM replica_revisions WHERE model = '`+model+`' AND `+w.quoted("key")+` = '`+key+`'`)
			}
		case 4:
			w.exec(w.copies, "UPDATE replica_revisions SET revision = 0 WHERE model = '"+model+"' AND revision = 1")
		case 5: // a message is lost
			require.NoError(w, w.write(w.Context(), model, number(model, n),
				fmt.Sprintf("stable %s %d lost %d", model, n, w.random.IntN(100)), false))
			w.exec(w.master, "DELETE FROM outbox_messages")
		}
	}
	w.exec(w.copies, "DELETE FROM gone")
}

func (w *world) quoted(name string) string {
	if w.copies.Dialect().Name().String() == "mysql" {
		return "`" + name + "`"
	}
	return `"` + name + `"`
}

// busy writes volatile rows, and states of stable ones, and carries the messages, until stop.
func (w *world) busy(seed uint64) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	var running sync.WaitGroup
	random := rand.New(rand.NewPCG(seed, 2))
	running.Go(func() {
		for ctx.Err() == nil {
			model, n, remove := []string{"a", "b"}[random.IntN(2)], random.IntN(all), false
			v := fmt.Sprintf("stable %s %d now %d", model, n, random.IntN(1000))
			if n >= stable {
				v, remove = strings.Replace(v, "stable", "volatile", 1), random.IntN(3) == 0
			}
			if err := w.write(context.WithoutCancel(ctx), model, number(model, n), v, remove); err != nil {
				w.Errorf("write: %v", err)
				return
			}
		}
	})
	running.Go(func() {
		for ctx.Err() == nil {
			carry(context.WithoutCancel(ctx), w, w.master, w.rep)
		}
	})
	return func() { cancel(); running.Wait() }
}

func (w *world) diff(model string, o operate.DiffOptions) operate.Result {
	w.Helper()
	result, err := operate.Diff(w.Context(), w.box, w.rep, model, io.Discard, o)
	require.NoError(w, err)
	require.Zero(w, result.Bad)
	return result
}

// someFilter selects a part of the instances.
func (w *world) someFilter() operate.Filter {
	w.Helper()
	text := []string{`{}`, `{"v__startswith": "stable"}`, `{"v__contains": "now"}`, `{"v__isnull": true}`}[w.random.IntN(4)]
	filter, err := operate.ParseFilter(text)
	require.NoError(w, err)
	return filter
}

// Whatever has drifted, while writes go on, a repair ends in the master's state, and on the way
// removes no row that the master has.
func TestRepairsEndInTheMastersStateAndRemoveNothingOfIt(t *testing.T) {
	seeds := []uint64{uint64(time.Now().UnixNano()), 1}
	if given := os.Getenv("CQRSYNC_TEST_SEED"); given != "" {
		seed, err := strconv.ParseUint(given, 10, 64)
		require.NoError(t, err)
		seeds = []uint64{seed}
	}
	for name, newURL := range dbtest.Kinds() {
		for _, seed := range seeds {
			t.Run(fmt.Sprintf("%s CQRSYNC_TEST_SEED=%d", name, seed), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, 1))
				types := keyPairs[name][random.IntN(len(keyPairs[name]))]
				inKey := random.IntN(2) == 0
				t.Logf("%s to %s, the discriminator in the key: %v", types.on, types.off, inKey)
				w := newWorld(t, dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t)), types, inKey, random)
				w.fill()
				for _, model := range []string{"a", "b"} {
					w.foundEitherWay(model)
				}
				for round := range 2 {
					w.drift()
					for _, model := range []string{"a", "b"} {
						w.foundEitherWay(model)
					}
					stop := w.busy(seed + uint64(round))
					func() {
						defer stop()
						for range 2 {
							for _, model := range []string{"a", "b"} {
								o := operate.DiffOptions{Content: random.IntN(2) == 0, Options: operate.Options{
									Filter: w.someFilter(), PageSize: 1 + random.IntN(9),
									Grace: time.Duration(random.IntN(50)) * time.Millisecond,
								}}
								if random.IntN(3) == 0 {
									o.Digest, o.Content, o.Filter = true, false, operate.Filter{}
								}
								w.diff(model, o)
							}
						}
					}()
				}
				w.settled()
			})
		}
	}
}

// foundEitherWay makes sure that digests find what a listing of all keys finds.
func (w *world) foundEitherWay(model string) {
	w.Helper()
	later(w.Context(), w, w.rep) // else the first one takes more for newer than its list
	var keys [2][]string
	var found [2]operate.Result
	for i, byDigest := range []bool{false, true} {
		var text bytes.Buffer
		var err error
		found[i], err = operate.Diff(w.Context(), w.box, w.rep, model, &text, operate.DiffOptions{
			Digest: byDigest, CheckOnly: true, Options: operate.Options{PageSize: 1 + w.random.IntN(9)},
		})
		require.NoError(w, err)
		for line := range strings.Lines(text.String()) {
			var page []json.RawMessage
			if strings.HasPrefix(line, "[") {
				require.NoError(w, json.Unmarshal([]byte(line), &page))
			}
			for _, key := range page {
				keys[i] = append(keys[i], string(key))
			}
		}
	}
	require.Equal(w, found[0], found[1])
	require.ElementsMatch(w, keys[0], keys[1])
}

// settled repairs without writes going on, and compares the tables.
func (w *world) settled() {
	w.Helper()
	var last bytes.Buffer
	for range 3 {
		carry(w.Context(), w, w.master, w.rep)
		for _, model := range []string{"a", "b"} {
			w.foundEitherWay(model)
			w.diff(model, operate.DiffOptions{Content: true})
		}
	}
	carry(w.Context(), w, w.master, w.rep)
	for _, model := range []string{"a", "b"} {
		result := w.diff(model, operate.DiffOptions{Content: true, CheckOnly: true})
		require.True(w, result.Equal(), "%s: %+v %s", model, result, &last)
		require.Equal(w,
			w.list(w.master, "SELECT v FROM parcels_"+model+" ORDER BY v"),
			w.list(w.copies, "SELECT v FROM parcels WHERE source = '"+model+"' ORDER BY v"))
	}
	for _, v := range w.list(w.copies, "SELECT v FROM gone") {
		require.NotContains(w, v, "stable", "a row that the master has was removed")
	}
}
