package operate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// carry publishes what is in the outbox to the replica.
func carry(ctx context.Context, t require.TestingT, master *bun.DB, rep *replica.Replica) int {
	messages, ids := messagesIn(ctx, t, master, "outbox_messages")
	results, err := rep.Apply(ctx, messages)
	require.NoError(t, err)
	for _, r := range results {
		require.NoError(t, r.Err)
	}
	if len(ids) == 0 {
		return 0
	}
	for {
		_, err = master.NewDelete().Table("outbox_messages").Where("id IN (?)", bun.List(ids)).Exec(ctx)
		if !db.Conflicted(err) { // with who writes meanwhile
			break
		}
	}
	require.NoError(t, err)
	later(ctx, t, rep)
	return len(ids)
}

// later returns when a replica's clock shows another time. It has milliseconds on SQLite, and about
// four of them on MariaDB, and what was applied in the one in which it is listed is left alone.
func later(ctx context.Context, t require.TestingT, rep *replica.Replica) {
	for first := (time.Time{}); ; {
		now, err := rep.Now(ctx)
		require.NoError(t, err)
		if first.IsZero() {
			first = now
		}
		if now.After(first) {
			return
		}
	}
}

// messages are those in a table like the outbox.
func (s *service) messages(table string) []*envelope.Message {
	s.Helper()
	messages, _ := messagesIn(s.Context(), s, s.master, table)
	return messages
}

func messagesIn(
	ctx context.Context, t require.TestingT, master *bun.DB, table string,
) (messages []*envelope.Message, ids []int64) {
	var rows []struct {
		ID                           int64
		Model, Key, Signal, Data, PK string
		Queue, Headers               *string
		Revision                     int64
		Micros                       int64
	}
	micros := bun.Safe("updated_at")
	if master.Dialect().Name().String() == "pg" {
		micros = "(extract(epoch FROM updated_at) * 1000000)::bigint"
	}
	err := master.NewSelect().Table(table).
		Column("id", "model", "key", "signal", "data", "pk", "queue", "headers", "revision").
		ColumnExpr("? AS micros", micros).Order("id").Scan(ctx, &rows)
	require.NoError(t, err)
	for _, r := range rows {
		m := &envelope.Message{
			Signal: envelope.Signal(r.Signal), Model: r.Model, Key: r.Key, PK: json.RawMessage(r.PK),
			Revision: r.Revision, Updated: time.UnixMicro(r.Micros).UTC(),
		}
		m.Data = envelope.Stamp(json.RawMessage(r.Data), m.Revision, m.Updated)
		if r.Queue != nil {
			m.Queue = *r.Queue
		}
		if r.Headers != nil {
			var headers map[string]string
			require.NoError(t, json.Unmarshal([]byte(*r.Headers), &headers))
			require.NoError(t, m.ReadForce(headers["cqrs_force"]))
		}
		messages, ids = append(messages, m), append(ids, r.ID)
	}
	return messages, ids
}

// seed makes the master hold what the Django master of the files held.
func (s *service) seed() {
	dump := golden(s.T, "bulk_dump.txt")
	for _, line := range strings.Split(strings.TrimSpace(dump), "\n")[1:] {
		var row Account
		require.NoError(s, json.Unmarshal([]byte(line), &row))
		s.exec(s.master, "INSERT INTO accounts (id, name) VALUES ("+strconv.FormatInt(row.ID, 10)+", '"+row.Name+"')")
	}
	s.ledger(s.master, "outbox_revisions", dump)
}

func TestDumpWritesWhatDjangoWrites(t *testing.T) {
	each(t, func(s *service) {
		s.seed()
		var b bytes.Buffer
		_, err := operate.Dump(s.Context(), s.box, "account", &b, operate.DumpOptions{})
		require.NoError(s, err)
		require.Equal(s, golden(s.T, "bulk_dump.txt"), b.String())
		marked := strings.Replace(b.String(), "account\n", "account,end=dump\n", 1) + "\n{}\n"
		require.Equal(s, marked, s.dump("account"), "with a mark that it is whole")
	})
}

func TestLoadReadsWhatDjangoWrites(t *testing.T) {
	each(t, func(s *service) {
		dump := golden(s.T, "bulk_dump.txt")
		require.Equal(s, operate.Loaded{Model: "account", Lines: 14, Applied: 14}, s.load(dump, operate.LoadOptions{}))
		s.seed()
		require.Equal(s, s.wanted(), s.copied())
		// And again: equal revisions are written again.
		require.Equal(s, operate.Loaded{Model: "account", Lines: 14, Applied: 14}, s.load(dump, operate.LoadOptions{}))
		// A final newline is optional.
		require.EqualValues(s, 14, s.load(dump+"\n", operate.LoadOptions{}).Applied)
	})
}

func TestDiffMasterWritesWhatDjangoWrites(t *testing.T) {
	each(t, func(s *service) {
		want := golden(s.T, "diff_master.txt")
		for _, pair := range regexp.MustCompile(`\[(\d+),(\d+)\]`).FindAllStringSubmatch(want, -1) {
			s.exec(s.master, "INSERT INTO accounts (id, name) VALUES ("+pair[1]+", 'x')")
			s.ledger(s.master, "outbox_revisions", "account\n"+
				`{"id":`+pair[1]+`,"cqrs_revision":`+pair[2]+`,"cqrs_updated":"2026-11-22 22:18:24.286729+00:00"}`)
		}
		var b bytes.Buffer
		n, err := operate.DiffMaster(s.Context(), s.box, "account", &b, operate.DiffMasterOptions{})
		require.NoError(s, err)
		require.EqualValues(s, 14, n)
		require.Equal(s, withMark("diff-master", afterTime(want)), afterTime(b.String()))
		require.Regexp(s, `^account,\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00,end=diff-master\n\[\[`, b.String())
	})
}

// withMark is what Django wrote with the mark that a stage of ours ends with.
func withMark(stage, text string) string {
	return strings.Replace(text, ",TIME", ",TIME,end="+stage, 1) + "[]\n"
}

// afterTime blanks the one thing that differs between runs.
func afterTime(text string) string {
	return regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00`).ReplaceAllString(text, "TIME")
}

// inOrder sorts the keys of a line: Django prints a set, in the order of its hashes.
func inOrder(text string) string {
	head, keys, _ := strings.Cut(text, "\n[")
	list := strings.Split(strings.TrimSuffix(strings.TrimSpace(keys), "]"), ",")
	slices.Sort(list)
	return head + "\n[" + strings.Join(list, ",") + "]\n"
}

func TestDiffReplicaReadsAndWritesWhatDjangoDoes(t *testing.T) {
	each(t, func(s *service) {
		master := golden(s.T, "diff_master.txt")
		want := golden(s.T, "diff_replica.txt")
		for _, pair := range regexp.MustCompile(`\[(\d+),(\d+)\]`).FindAllStringSubmatch(master, -1) {
			if pair[1] == "104" || pair[1] == "114" { // missing
				continue
			}
			revision := pair[2]
			if pair[1] == "103" { // behind
				revision = "0"
			}
			s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES ("+pair[1]+", 'x')")
			s.ledger(s.copies, "replica_revisions", "account\n"+
				`{"id":`+pair[1]+`,"cqrs_revision":`+revision+`,"cqrs_updated":"2026-11-22 22:18:24.286729+00:00"}`)
		}
		var b bytes.Buffer
		found, err := operate.DiffReplica(s.Context(), s.rep, strings.NewReader(master), &b, operate.Options{})
		require.NoError(s, err)
		require.Equal(s, operate.Difference{Model: "account", Compared: 14, Differing: 3}, found)
		require.Equal(s, withMark("diff-replica", afterTime(inOrder(want))), afterTime(b.String()), "Django's keys are in the order of a set, ours in the master's")

		// And the last stage reads both.
		s.accounts(100, 120)
		for _, input := range []string{want, b.String()} {
			s.exec(s.master, "DELETE FROM outbox_messages")
			sent, err := operate.DiffSync(s.Context(), s.box, strings.NewReader(input), operate.Options{})
			require.NoError(s, err)
			require.EqualValues(s, 3, sent)
			var queues []string
			require.NoError(s, s.master.NewSelect().Table("outbox_messages").Column("queue").Scan(s.Context(), &queues))
			require.Equal(s, []string{"replica_a", "replica_a", "replica_a"}, queues)
		}
	})
}

func TestDeletedDiffReadsAndWritesWhatDjangoDoes(t *testing.T) {
	each(t, func(s *service) {
		ofReplica, ofMaster := golden(s.T, "deleted_diff_replica.txt"), golden(s.T, "deleted_diff_master.txt")
		for _, id := range regexp.MustCompile(`\b\d+\b`).FindAllString(strings.Split(ofReplica, "\n")[1], -1) {
			s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES ("+id+", 'x')")
			if id != "105" && id != "900" && id != "109" {
				s.exec(s.master, "INSERT INTO accounts (id, name) VALUES ("+id+", 'x')")
			}
		}
		var b bytes.Buffer
		n, err := operate.DeletedDiffReplica(s.Context(), s.rep, "account", &b, operate.Options{})
		require.NoError(s, err)
		require.EqualValues(s, 17, n)
		require.Equal(s, withMark("deleted-diff-replica", afterTime(ofReplica)), afterTime(b.String()))

		b.Reset()
		found, err := operate.DeletedDiffMaster(s.Context(), s.box, strings.NewReader(ofReplica), &b, operate.Options{})
		require.NoError(s, err)
		require.EqualValues(s, 3, found.Differing)
		require.Equal(s, withMark("deleted-diff-master", afterTime(inOrder(ofMaster))), afterTime(b.String()))

		deletion, err := operate.DeletedSyncReplica(s.Context(), s.rep, strings.NewReader(ofMaster), operate.Options{}, nil)
		require.NoError(s, err)
		require.Equal(s, operate.Deletion{Model: "account", Deleted: 3}, deletion)
		require.Equal(s, len(s.wanted()), len(s.copied()))
	})
}

func TestRoundTripsOfModelsAndKeys(t *testing.T) {
	each(t, func(s *service) {
		seats := []*Seat{
			{Row: 1, Place: "a", Guest: "Ada"}, {Row: 1, Place: `b"[,`, Guest: "Bob"}, {Row: 2, Place: "a", Guest: "Carl"},
		}
		s.insert(&seats)
		dump := s.dump("seat")
		require.True(s, strings.HasPrefix(dump, "seat,end=dump\n{\"cqrs_revision\":0,"), dump)
		require.EqualValues(s, 3, s.load(dump, operate.LoadOptions{}).Applied)
		var copied []*Seat
		require.NoError(s, s.copies.NewSelect().Model(&copied).Order("row", "place").Scan(s.Context()))
		require.Equal(s, seats, copied)

		result, err := operate.Diff(s.Context(), s.box, s.rep, "seat", &bytes.Buffer{}, operate.DiffOptions{Content: true})
		require.NoError(s, err)
		require.True(s, result.Equal(), result)
		s.exec(s.copies, "UPDATE seats SET guest = 'Eve' WHERE place = 'a' AND guest = 'Ada'")
		s.exec(s.copies, "INSERT INTO seats VALUES (9, 'z', 'Zoe')")
		var b bytes.Buffer
		result, err = operate.Diff(s.Context(), s.box, s.rep, "seat", &b, operate.DiffOptions{Content: true})
		require.NoError(s, err)
		require.EqualValues(s, 1, result.Differing)
		require.EqualValues(s, 1, result.Deleted)
		require.Equal(s, "seat,TIME,replica_a\n[[1,\"a\"]]\nseat,TIME\n[[9,\"z\"]]\n", afterTime(b.String()))
	})
}

func TestACorruptedReplicaIsFoundAndRepaired(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 40)
		s.load(s.dump("account"), operate.LoadOptions{})
		s.exec(s.master, "DELETE FROM outbox_messages")
		s.rename(5, "renamed") // and its message is lost
		s.rename(6, "renamed")
		s.remove(7)
		s.exec(s.master, "DELETE FROM outbox_messages")
		s.exec(s.copies, "DELETE FROM account_copies WHERE id IN (10, 11)")
		s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES (900, 'extra')")
		s.exec(s.copies, "UPDATE account_copies SET title = 'drifted' WHERE id = 20")

		toSync, found := s.diff(operate.DiffMasterOptions{})
		require.EqualValues(s, 4, found.Differing)
		require.Equal(s, "account,TIME,end=diff-replica,replica_a\n[5,6,10,11]\n", sortedKeys(afterTime(toSync)))
		toSync, found = s.diff(operate.DiffMasterOptions{Content: true})
		require.EqualValues(s, 5, found.Differing)
		require.Equal(s, "account,TIME,end=diff-replica,replica_a\n[5,6,10,11,20]\n", sortedKeys(afterTime(toSync)))

		var b bytes.Buffer
		result, err := operate.Diff(s.Context(), s.box, s.rep, "account", &b, operate.DiffOptions{Content: true, CheckOnly: true})
		require.NoError(s, err)
		require.Equal(s, operate.Result{
			Difference: operate.Difference{Model: "account", Compared: 39, Differing: 5, Content: true}, Extra: 2,
		}, result)
		require.Zero(s, s.carry(), "only checked")

		result, err = operate.Diff(s.Context(), s.box, s.rep, "account", &b, operate.DiffOptions{Content: true})
		require.NoError(s, err)
		require.EqualValues(s, 5, result.Sent)
		require.EqualValues(s, 2, result.Deleted)
		require.Equal(s, 5, s.carry())
		require.Equal(s, s.wanted(), s.copied())
		result, err = operate.Diff(s.Context(), s.box, s.rep, "account", &b, operate.DiffOptions{Content: true})
		require.NoError(s, err)
		require.True(s, result.Equal(), result)
	})
}

// sortedKeys sorts short integer keys by their value.
func sortedKeys(text string) string {
	head, line, _ := strings.Cut(strings.TrimSuffix(text, "[]\n"), "\n")
	var keys []int
	_ = json.Unmarshal([]byte(line), &keys)
	slices.Sort(keys)
	sorted, _ := json.Marshal(keys)
	return head + "\n" + string(sorted) + "\n"
}

func TestSyncReachesTheChosenQueueAndMayForce(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		s.carry()
		filter, err := operate.ParseFilter(`{"pk__in": [1, 2]}`)
		require.NoError(s, err)
		sent, err := operate.Sync(s.Context(), s.box, "account", operate.SyncOptions{
			Options: operate.Options{Filter: filter}, To: outbox.SyncOptions{Queue: "other"},
		})
		require.NoError(s, err)
		require.EqualValues(s, 2, sent)
		s.exec(s.copies, "DELETE FROM account_copies")
		require.Equal(s, 2, s.carry())
		require.Empty(s, s.copied(), "they were for another queue")

		// The master was restored from a backup: its revisions are behind the replica's.
		require.EqualValues(s, 3, s.load("account\n"+
			`{"id":1,"name":"future","cqrs_revision":9,"cqrs_updated":"2999-01-01 00:00:00+00:00"}`+"\n"+
			`{"id":2,"name":"future","cqrs_revision":9,"cqrs_updated":"2999-01-01 00:00:00+00:00"}`+"\n"+
			`{"id":3,"name":"future","cqrs_revision":9,"cqrs_updated":"2999-01-01 00:00:00+00:00"}`+"\n", operate.LoadOptions{}).Applied)
		for _, force := range []bool{false, true} {
			_, err = operate.Sync(s.Context(), s.box, "account", operate.SyncOptions{To: outbox.SyncOptions{Force: force}})
			require.NoError(s, err)
			s.carry()
			require.Equal(s, force, s.copied()[1] == "account")
		}
	})
}

func TestABadLineIsReportedAndUndoesNothing(t *testing.T) {
	each(t, func(s *service) {
		lines := []string{
			"account",
			`{"id":1,"name":"one","cqrs_revision":1,"cqrs_updated":"2026-11-22 22:18:24.286729+00:00"}`,
			`{"id":2,"name":"two"`,
			`{"id":3,"name":"no revision"}`,
			``,
			`{"name":"no key","cqrs_revision":0,"cqrs_updated":null}`,
			`{"id":"x","name":"not a number","cqrs_revision":0,"cqrs_updated":null}`,
			`[1]`,
			`{"id":4,"name":"four","cqrs_revision":0,"cqrs_updated":null}`,
			`{"id":1,"name":"older","cqrs_revision":0,"cqrs_updated":null}`,
		}
		bad := map[int]string{}
		loaded := s.load(strings.Join(lines, "\n"), operate.LoadOptions{
			BadLine: func(number int, err error) { bad[number] = err.Error() },
		})
		require.Equal(s, map[int64]string{1: "one", 4: "four"}, s.copied())
		require.Equal(s, operate.Loaded{Model: "account", Lines: 8, Applied: 2, Unchanged: 1, Bad: 5}, loaded, "%v", bad)
		for number, part := range map[int]string{3: "not JSON", 4: "cqrs_revision", 6: `"id"`, 7: `"id"`, 8: "object"} {
			require.Contains(s, bad[number], part)
		}
	})
}

func TestLoadClearsAndKeepsTombstones(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		s.carry()
		dump := s.dump("account")
		s.remove(2)
		s.carry()
		s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES (77, 'extra')")
		s.exec(s.copies, "UPDATE account_copies SET title = 'drifted' WHERE id = 1")
		loaded := s.load(dump, operate.LoadOptions{
			Clear: true, Options: operate.Options{MaxDeletes: 3},
		})
		require.Equal(s, operate.Loaded{Model: "account", Lines: 3, Applied: 2, Unchanged: 1}, loaded)
		require.Equal(s, s.wanted(), s.copied(), "what was deleted after the dump stays so")
	})
}

func TestRowsFromBeforeCqrsyncAreCarriedAndThenFollowed(t *testing.T) {
	each(t, func(s *service) {
		s.exec(s.master, "INSERT INTO accounts (id, name) VALUES (1, 'old'), (2, 'old')")
		s.load(s.dump("account"), operate.LoadOptions{})
		require.Equal(s, s.wanted(), s.copied())
		_, found := s.diff(operate.DiffMasterOptions{})
		require.Zero(s, found.Differing)
		s.rename(1, "new")
		s.carry()
		require.Equal(s, s.wanted(), s.copied(), "the first captured write is newer than what was loaded")
	})
}
