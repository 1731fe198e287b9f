package outbox_test

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Taken is a row of a table that a Django master wrote. The struct leaves its two columns out.
type Taken struct {
	bun.BaseModel `bun:"table:taken"`
	outbox.Tracked

	ID   string `bun:",pk,type:varchar(100)"`
	Name string
}

// Stamped is the same with them.
type Stamped struct {
	bun.BaseModel `bun:"table:stamped"`
	outbox.Tracked

	ID       int64 `bun:",pk"`
	Name     string
	Revision int64     `bun:"cqrs_revision"`
	Updated  time.Time `bun:"cqrs_updated"`
}

// django is a table with n rows as a Django master left them: row i has revision i.
func django(t *testing.T, db *bun.DB, n int) *outbox.Box {
	typ := map[string]string{"pg": "timestamptz", "mysql": "datetime(6)", "sqlite": "datetime"}[db.Dialect().Name().String()]
	statements := []string{
		"CREATE TABLE taken (id varchar(100) PRIMARY KEY, name varchar(100), cqrs_revision bigint NOT NULL DEFAULT 0, " +
			"cqrs_updated " + typ + " NOT NULL DEFAULT '2026-01-01 00:00:00')",
	}
	var rows []string
	for i := range n {
		rows = append(rows, fmt.Sprintf("('key %d', 'from django', %d, '2026-01-01 00:00:%02d.25')", i, i, i%60))
	}
	if n > 0 {
		statements = append(statements, "INSERT INTO taken VALUES "+strings.Join(rows, ", "))
	}
	for _, statement := range statements {
		_, err := db.DB.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Taken](box, "account"))
	require.NoError(t, box.Migrate(t.Context()))
	return box
}

func renameTaken(t *testing.T, box *outbox.Box, key, name string) {
	t.Helper()
	require.NoError(t, box.RetryInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model(&Taken{ID: key, Name: name}).WherePK().Exec(ctx)
		return err
	}))
}

// revisions are those of the instances, as dumps and diffs have them.
func revisions(t *testing.T, box *outbox.Box) map[string]boxed.Instance {
	t.Helper()
	all := map[string]boxed.Instance{}
	for page, err := range boxed.Of(box).Instances(t.Context(), "account", boxed.Selection{}) {
		require.NoError(t, err)
		for _, i := range page {
			all[i.Key] = i
		}
	}
	return all
}

type sentMessage struct {
	Signal   string
	Revision int64
	After    *int64
	Data     string
}

func sentOf(t *testing.T, db *bun.DB, key string) (all []sentMessage) {
	t.Helper()
	require.NoError(t, db.NewSelect().Table("outbox_messages").Column("signal", "revision", "after", "data").
		Where("? = ?", bun.Ident("key"), key).Order("id").Scan(t.Context(), &all))
	return all
}

func TestAMasterThatWasDjangosKeepsItsRevisions(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box := django(t, db, 25)
		o := boxed.AdoptOptions{PageSize: 10}
		done, err := boxed.Of(box).Adopt(t.Context(), "account", o)
		require.NoError(t, err)
		require.Equal(t, boxed.Adopted{Rows: 25, Taken: 25}, done)
		for i := range 25 {
			instance := revisions(t, box)[fmt.Sprintf("key %d", i)]
			require.EqualValues(t, i, instance.Revision)
			require.Equal(t, time.Date(2026, 1, 1, 0, 0, i, 250_000_000, time.UTC), instance.Updated.UTC())
			require.NotContains(t, string(instance.Data), "cqrs_", "they are the ledger's")
		}
		done, err = boxed.Of(box).Adopt(t.Context(), "account", o)
		require.NoError(t, err)
		require.Equal(t, boxed.Adopted{Rows: 25}, done, "again does nothing")

		renameTaken(t, box, "key 7", "from go")
		seven := int64(7)
		sent := sentOf(t, db, "key 7")
		require.Len(t, sent, 1)
		require.Equal(t, sentMessage{"SAVE", 8, &seven, sent[0].Data}, sent[0], "the next revision, after the one that replicas have")
		require.NotContains(t, sent[0].Data, "cqrs_")
		_, err = boxed.Of(box).Adopt(t.Context(), "account", o)
		require.NoError(t, err)
		require.EqualValues(t, 8, revisions(t, box)["key 7"].Revision, "the ledger is ahead of the column")

		// The Django master went on after all.
		_, err = db.DB.ExecContext(t.Context(), "UPDATE taken SET cqrs_revision = 30, cqrs_updated = '2026-01-02 00:00:00' WHERE id = 'key 9'")
		require.NoError(t, err)
		done, err = boxed.Of(box).Adopt(t.Context(), "account", o)
		require.NoError(t, err)
		require.Equal(t, boxed.Adopted{Rows: 25, Taken: 1}, done)
		require.EqualValues(t, 30, revisions(t, box)["key 9"].Revision)
		require.Empty(t, sentOf(t, db, "key 9"))
	})
}

func TestWhatWasWrittenBeforeItWasAdoptedIsSentAgainWithARevisionThatReplicasTake(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box := django(t, db, 10)
		renameTaken(t, box, "key 7", "too early") // revision 1, which replicas take for old
		renameTaken(t, box, "key 0", "in time")
		done, err := boxed.Of(box).Adopt(t.Context(), "account", boxed.AdoptOptions{})
		require.NoError(t, err)
		require.Equal(t, boxed.Adopted{Rows: 10, Taken: 8, Sent: 1}, done)
		sent := sentOf(t, db, "key 7")
		require.Len(t, sent, 2)
		require.Equal(t, "SYNC", sent[1].Signal)
		require.EqualValues(t, 8, sent[1].Revision)
		require.Contains(t, sent[1].Data, "too early")
		require.Len(t, sentOf(t, db, "key 0"), 1)
		done, err = boxed.Of(box).Adopt(t.Context(), "account", boxed.AdoptOptions{})
		require.NoError(t, err)
		require.Equal(t, boxed.Adopted{Rows: 10}, done)
	})
}

func TestRowsAreAdoptedWhileTheServiceWrites(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box := django(t, db, 40)
		stop, stopped := make(chan struct{}), make(chan error, 1)
		written := map[string]int{}
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				key := fmt.Sprintf("key %d", i%40)
				err := box.RetryInTx(context.WithoutCancel(t.Context()), nil, func(ctx context.Context, tx bun.Tx) error {
					_, err := tx.NewUpdate().Model(&Taken{ID: key, Name: fmt.Sprint(i)}).WherePK().Exec(ctx)
					return err
				})
				if err != nil {
					stopped <- err
					return
				}
				written[key]++
			}
		}()
		for range 3 {
			_, err := boxed.Of(box).Adopt(t.Context(), "account", boxed.AdoptOptions{PageSize: 7})
			require.NoError(t, err)
		}
		close(stop)
		require.NoError(t, <-stopped)
		for i := range 40 {
			key := fmt.Sprintf("key %d", i)
			instance := revisions(t, box)[key]
			sent := sentOf(t, db, key)
			if written[key] == 0 {
				require.EqualValues(t, i, instance.Revision)
				continue
			}
			last := sent[len(sent)-1]
			require.Equal(t, instance.Revision, last.Revision, "the newest is what replicas get")
			require.GreaterOrEqual(t, last.Revision, int64(i), "%s: the same is taken where it is later", key)
			require.JSONEq(t, string(instance.Data), last.Data)
		}
	})
}

func TestOnlyATableWithBothColumnsIsAdopted(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box := django(t, db, 2)
		_, err := boxed.Of(box).Adopt(t.Context(), "nope", boxed.AdoptOptions{})
		require.ErrorContains(t, err, `"nope" is not registered`)
		_, err = db.DB.ExecContext(t.Context(), "UPDATE taken SET cqrs_revision = -1 WHERE id = 'key 1'")
		require.NoError(t, err)
		_, err = boxed.Of(box).Adopt(t.Context(), "account", boxed.AdoptOptions{})
		require.ErrorContains(t, err, "key 1: cqrs_revision or cqrs_updated is NULL or negative")
		_, err = db.DB.ExecContext(t.Context(), "ALTER TABLE taken DROP COLUMN cqrs_updated")
		require.NoError(t, err)
		_, err = boxed.Of(box).Adopt(t.Context(), "account", boxed.AdoptOptions{})
		require.ErrorContains(t, err, "table taken has no column cqrs_updated")
	})
}

func TestTheColumnsOfADjangoMasterAreNeverSent(t *testing.T) {
	for name, options := range map[string][]outbox.Option{
		"columns": nil,
		"serializer": {outbox.Serializer(func(_ context.Context, _ bun.IDB, rows []*Stamped) ([]any, error) {
			objects := make([]any, len(rows))
			for i, row := range rows {
				objects[i] = map[string]any{"id": row.ID, "name": row.Name, "cqrs_revision": row.Revision, "cqrs_updated": row.Updated}
			}
			return objects, nil
		})},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				typ := map[string]string{"pg": "timestamptz"}[db.Dialect().Name().String()]
				_, err := db.DB.ExecContext(t.Context(), "CREATE TABLE stamped (id bigint PRIMARY KEY, name varchar(9), "+
					"cqrs_revision bigint, cqrs_updated "+cmp.Or(typ, "datetime")+")")
				require.NoError(t, err)
				box, err := outbox.New(db, outbox.Config{})
				require.NoError(t, err)
				require.NoError(t, outbox.Register[Stamped](box, "account", options...))
				require.NoError(t, box.Migrate(t.Context()))
				require.NoError(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
					row := &Stamped{ID: 1, Name: "x", Revision: 99, Updated: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
					_, err := tx.NewInsert().Model(row).Exec(ctx)
					return err
				}))
				require.JSONEq(t, `{"id": 1, "name": "x"}`, sentOf(t, db, "1")[0].Data)
				require.JSONEq(t, `{"id": 1, "name": "x"}`, string(revisions(t, box)["1"].Data))
			})
		})
	}
}
