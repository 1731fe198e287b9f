package manifest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

const (
	posts = `CREATE TABLE posts (id bigint PRIMARY KEY, status varchar(20), hits bigint NOT NULL)`
	// postsYAML does not send the column of the condition.
	postsYAML = `models: {post: {table: posts, columns: [id, hits], filter: "status <> 'draft' AND t.hits >= 0"}}`
)

// Post is the same table for a service in Go.
type Post struct {
	bun.BaseModel `bun:"table:posts"`
	outbox.Tracked

	ID     int64 `bun:",pk"`
	Status *string
	Hits   int64
}

func isSent(p *Post) bool { return p.Status != nil && *p.Status != "draft" && p.Hits >= 0 }

// filtered is one table captured twice: by triggers under a filter in SQL, and by a service in Go.
type filtered struct {
	captured

	plain *bun.DB     // of the first, without Go's capture
	goDB  *bun.DB     // of the second
	goBox *outbox.Box // and its capture
}

func eachFiltered(t *testing.T, test func(f filtered)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := filtered{captured: uncapturedAt(t, newURL(t), posts, postsYAML), goDB: dbtest.Open(t, newURL(t))}
			f.install()
			f.plain = bun.NewDB(f.db.DB, f.db.Dialect())
			db{f.goDB.DB}.exec(t, posts)
			var err error
			f.goBox, err = outbox.New(f.goDB, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, outbox.Register[Post](f.goBox, "post", outbox.Filter(isSent), outbox.WithoutColumns("status")))
			require.NoError(t, f.goBox.Migrate(t.Context()))
			test(f)
		})
	}
}

// inBoth runs one transaction under either capture.
func (f filtered) inBoth(fn func(ctx context.Context, tx bun.Tx) error) {
	f.Helper()
	require.NoError(f, f.plain.RunInTx(outbox.Explicit(f.Context()), nil, fn))
	_, err := f.box.Sweep(f.Context()) // on PostgreSQL there is nothing
	require.NoError(f, err)
	require.NoError(f, f.goBox.RunInTx(f.Context(), nil, fn))
}

// messagesOf are those of an outbox in their order.
func messagesOf(t *testing.T, conn *bun.DB) (all []sent) {
	t.Helper()
	require.NoError(t, conn.NewSelect().Table("outbox_messages").Column("model", "key", "signal", "data", "revision").
		OrderExpr("id").Scan(t.Context(), &all))
	for i := range all {
		all[i].Data = canonical(t, all[i].Data)
	}
	return all
}

func lines(all []sent) (lines []string) {
	for _, m := range all {
		lines = append(lines, fmt.Sprintf("%s %d %s", m.Key, m.Revision, m.Signal))
	}
	return lines
}

func (f filtered) write(p Post) {
	f.Helper()
	f.inBoth(func(ctx context.Context, tx bun.Tx) error {
		known, err := tx.NewSelect().Model(&Post{ID: p.ID}).WherePK().Exists(ctx)
		switch {
		case err != nil:
		case known:
			_, err = tx.NewUpdate().Model(&p).WherePK().Exec(ctx)
		default:
			_, err = tx.NewInsert().Model(&p).Exec(ctx)
		}
		return err
	})
}

func (f filtered) remove(id int64) {
	f.Helper()
	f.inBoth(func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewDelete().Model(&Post{ID: id}).WherePK().Exec(ctx)
		return err
	})
}

// A row that comes to match is a SAVE, one that stops is a DELETE, and of one that never did
// replicas hear nothing.
func TestFilterRepairsWhoLeavesAndWhoComes(t *testing.T) {
	eachFiltered(t, func(f filtered) {
		open, draft := "open", "draft"
		f.write(Post{ID: 1, Status: &draft})           // 0: nothing
		f.write(Post{ID: 1, Status: &open})            // 1: SAVE
		f.write(Post{ID: 1, Status: &open, Hits: 1})   // 2: SAVE
		f.write(Post{ID: 1, Status: nil, Hits: 1})     // 3: DELETE, as NULL is not true
		f.write(Post{ID: 1, Status: &draft, Hits: 1})  // 4: nothing
		f.write(Post{ID: 1, Status: &open})            // 5: SAVE
		f.write(Post{ID: 1, Status: &open, Hits: -1})  // 6: DELETE
		f.remove(1)                                    // nothing
		f.write(Post{ID: 1, Status: &open})            // SAVE
		f.write(Post{ID: 2, Status: &draft, Hits: 7})  // nothing
		f.remove(2)                                    // nothing
		f.write(Post{ID: 3, Status: &draft, Hits: 70}) // nothing
		want := messagesOf(f.T, f.goDB)
		require.Equal(f, want, messagesOf(f.T, f.db))
		require.Equal(f, []string{"1 1 SAVE", "1 2 SAVE", "1 3 DELETE", "1 5 SAVE", "1 6 DELETE", "1 7 SAVE"}, lines(want))
		require.Equal(f, `{"hits":1,"id":1}`, want[1].Data)
	})
}

// Rows that were there before the triggers may be at the replicas: the first write under the filter
// tells them.
func TestFilterSendsADeleteOfAnOlderRow(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedAt(t, newURL(t), posts, postsYAML)
			db{c.db.DB}.exec(t, "INSERT INTO posts VALUES (1, 'open', 0), (2, 'draft', 0), (3, 'open', 0)")
			c.install()
			c.run("UPDATE posts SET status = 'draft' WHERE id = 1", "UPDATE posts SET hits = 5 WHERE id > 1")
			_, err := c.box.Sweep(t.Context())
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"1 1 DELETE", "2 1 DELETE", "3 1 SAVE"}, lines(messagesOf(t, c.db)))
		})
	}
}

// At the end of any writes the copies are what the filter lets through, and the outboxes of both
// captures are equal all along.
func TestFilterKeepsCopiesEqualToItsRows(t *testing.T) {
	eachFiltered(t, func(f filtered) {
		seed := rand.Uint64()
		f.Logf("seed %d", seed)
		random, exists := rand.New(rand.NewPCG(seed, 7)), map[int64]bool{}
		for range 60 {
			type step struct {
				post Post
				verb string
			}
			var steps []step
			for range 1 + random.IntN(3) {
				p := Post{ID: 1 + random.Int64N(5), Hits: random.Int64N(9) - 2}
				if status := []string{"open", "draft", "Draft", ""}[random.IntN(4)]; status != "" {
					p.Status = &status
				}
				verb := []string{"update", "update", "delete"}[random.IntN(3)]
				if !exists[p.ID] {
					verb = "insert"
				}
				exists[p.ID] = verb != "delete"
				steps = append(steps, step{p, verb})
			}
			f.inBoth(func(ctx context.Context, tx bun.Tx) (err error) {
				for _, s := range steps {
					switch s.verb {
					case "insert":
						_, err = tx.NewInsert().Model(&s.post).Exec(ctx)
					case "update":
						_, err = tx.NewUpdate().Model(&s.post).WherePK().Exec(ctx)
					default:
						_, err = tx.NewDelete().Model(&s.post).WherePK().Exec(ctx)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		all := messagesOf(f.T, f.db)
		f.requireCopies(all)
		if f.db.Dialect().Name() != dialect.MySQL { // its collation takes Draft for draft, and Go does not
			require.Equal(f, messagesOf(f.T, f.goDB), all)
		}
	})
}

// requireCopies applies messages, and compares with what the database selects.
func (f filtered) requireCopies(all []sent) {
	f.Helper()
	copies, revisions := map[string]string{}, map[string]int64{}
	for _, m := range all {
		if last, known := revisions[m.Key]; known {
			require.Greater(f, m.Revision, last, "key %s", m.Key)
		}
		revisions[m.Key] = m.Revision
		if m.Signal == "DELETE" {
			delete(copies, m.Key)
			continue
		}
		copies[m.Key] = m.Data
	}
	var rows []Post
	require.NoError(f, f.plain.NewSelect().Model(&rows).Where("status <> 'draft' AND hits >= 0").Scan(f.Context()))
	want := map[string]string{}
	for _, p := range rows {
		want[fmt.Sprint(p.ID)] = fmt.Sprintf(`{"hits":%d,"id":%d}`, p.Hits, p.ID)
	}
	require.Equal(f, want, copies)
}

// A resent state passes the same filter.
func TestFilterHoldsForSync(t *testing.T) {
	eachFiltered(t, func(f filtered) {
		f.run("INSERT INTO posts VALUES (1, 'open', 0), (2, 'draft', 0), (3, NULL, 0)")
		_, err := f.box.Sweep(f.Context())
		require.NoError(f, err)
		db{f.db.DB}.exec(f.T, "DELETE FROM outbox_messages")
		sent, err := f.box.Sync(f.Context(), "post",
			[]json.RawMessage{[]byte("1"), []byte("2"), []byte("3"), []byte("4")}, outbox.SyncOptions{})
		require.NoError(f, err)
		require.Equal(f, 1, sent)
		require.Equal(f, []string{"1 0 SYNC"}, lines(messagesOf(f.T, f.db)))
		states, err := boxed.Of(f.box).States(f.Context(), "post", []string{"1", "2", "3", "4"})
		require.NoError(f, err)
		for i, state := range states {
			require.Equal(f, i == 0, state.Data != nil, "what a replica that asks is told of key %s", state.Key)
		}
	})
}

// The condition that triggers ask is the one that commands ask, whatever the function's search path
// and the table's columns are called.
func TestFilterMeansTheSameInTheTriggersFunction(t *testing.T) {
	c := capturedOn(t, `CREATE TYPE mood AS ENUM ('good', 'bad');
		CREATE FUNCTION twice(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 2 * n';
		CREATE TABLE moods (id bigint PRIMARY KEY, m mood, key text, revision bigint, deleted boolean, after bigint, at timestamptz, _key int)`,
		`models: {mood: {table: moods, columns: id, filter:
			"m = 'good' AND key = 'k' AND revision = 7 AND NOT deleted AND twice(after) = 8 AND _key = 1 AND at >= '2026-01-01 00:00'"}}`)
	c.run("INSERT INTO moods VALUES (1, 'good', 'k', 7, false, 4, '2026-01-01 00:00+00', 1), (2, 'bad', 'k', 7, false, 4, '2026-01-02', 1)," +
		"(3, 'good', 'k', 7, false, 4, '2025-12-31 23:59:59+00', 1), (4, 'good', 'k', 7, true, 4, '2026-01-02', 1)")
	require.Equal(t, []string{"mood 1 0 SAVE"}, c.take())
}

// A file with another filter is seen by check, and brought in by install.
func TestFilterThatChangesIsFoundByCheck(t *testing.T) {
	c := capturedOn(t, posts, postsYAML)
	c.m = &manifest.Manifest{Models: map[string]manifest.Model{"post": {Table: "posts", Filter: "status <> 'old'"}}}
	found, err := c.triggers().Check(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, found)
	c.install()
}
