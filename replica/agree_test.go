package replica_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

func TestMessageThatNamesTwoKeysIsADeadLetter(t *testing.T) {
	type Pair struct {
		A int64  `bun:",pk"`
		B string `bun:",pk,type:varchar(20)"`
		C int64
	}
	type Coded struct {
		Code string `bun:",pk,type:varchar(20)"`
		Text string
	}
	note := func(pk, id string) *envelope.Message {
		m := &envelope.Message{
			Signal: envelope.Save, Model: "note", PK: json.RawMessage(pk), Data: json.RawMessage(`{"id":` + id + `,"text":"x"}`),
		}
		return at(m, 5, noon)
	}
	header := save(7, 5, "x")
	header.Key = "8"
	otherDelete := at(&envelope.Message{
		Signal: envelope.Delete, Model: "note", PK: json.RawMessage("1"), Data: envelope.DeleteData(json.RawMessage("2")),
	}, 5, noon)
	pair := func(pk, data string) *envelope.Message {
		return at(&envelope.Message{Signal: envelope.Save, Model: "pair", PK: json.RawMessage(pk), Data: json.RawMessage(data)}, 5, noon)
	}
	for name, test := range map[string]struct {
		message *envelope.Message
		want    []string
	}{
		"header":    {header, []string{"instance_pk", "cqrs_key"}},
		"column":    {note("1", "2"), []string{"key", `"id"`}},
		"delete":    {otherDelete, []string{"instance_pk", "id"}},
		"composite": {pair(`[1,"x"]`, `{"a":1,"b":"y","c":1}`), []string{"key", `"b"`}},
		"too few":   {pair(`1`, `{"a":1,"b":"y","c":1}`), []string{"key", `"b"`}},
		// The table is keyed by another column than the master's.
		"another column": {
			at(&envelope.Message{
				Signal: envelope.Save, Model: "coded", PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1,"code":"c","text":"x"}`),
			}, 5, noon),
			[]string{"key", `"code"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				f := newFixture(t, db)
				mirror[Note](f, "note")
				mirror[Pair](f, "pair")
				mirror[Coded](f, "coded")
				f.deliver(save(1, 0, "a"), save(2, 9, "b"), save(7, 9, "c"), save(8, 9, "d"))
				f.deliver(test.message)
				letters := f.deadLetters()
				require.Len(t, letters, 1)
				for _, want := range test.want {
					require.Contains(t, letters[0].Error, want)
				}
				require.Equal(t, map[int64]string{1: "a", 2: "b", 7: "c", 8: "d"}, f.notes())
				require.Zero(t, f.ledger(1).Revision)
				require.EqualValues(t, 4, f.Stats().Applied)
			})
		})
	}
}

// The same key may be written in several ways.
func TestKeysThatAgreeInOtherWords(t *testing.T) {
	type Stamped struct {
		At   time.Time `bun:",pk"`
		Text string
	}
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	f := newFixture(t, db)
	mirror[Note](f, "note")
	mirror[Stamped](f, "stamped")
	f.deliver(
		at(&envelope.Message{Signal: envelope.Save, Model: "note", PK: json.RawMessage(`"1"`), Data: json.RawMessage(`{"id":1,"text":"a"}`)}, 0, noon),
		at(&envelope.Message{
			Signal: envelope.Save, Model: "stamped", PK: json.RawMessage(`"2026-11-22T12:00:00Z"`),
			Data: json.RawMessage(`{"at":"2026-11-22 13:00:00+01:00","text":"a"}`),
		}, 0, noon))
	require.Empty(t, f.deadLetters())
	require.EqualValues(t, 2, f.Stats().Applied)
}

func TestRevisionBeyondSenseIsADeadLetter(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"))
		for _, revision := range []int64{math.MaxInt64, -1, math.MinInt64} {
			m := save(1, 1, "poison")
			f.deliver(at(m, revision, noon.Add(time.Hour)))
		}
		letters := f.deadLetters()
		require.Len(t, letters, 3)
		require.Contains(t, letters[0].Error, "cqrs_revision is 9223372036854775807")
		f.deliver(save(1, 1, "b"))
		require.Equal(t, map[int64]string{1: "b"}, f.notes(), "the key goes on")
	})
}

func TestOrphanCarriesItsOwnError(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := family(t, db)
		f.together(of("child", envelope.Save, "1", 0, `"parent_id":71`), of("child", envelope.Save, "2", 0, `"parent_id":72`))
		for _, w := range f.waiting() {
			require.Contains(t, w.Error, "is 7"+w.Key+",", w.Key)
			require.Contains(t, w.Error, "parents")
			require.NotContains(t, w.Error, "7"+map[string]string{"1": "2", "2": "1"}[w.Key], "of the other one")
		}
		require.Len(t, f.waiting(), 2)
	})
}

func TestTroubleThatLastsIsLoggedOnce(t *testing.T) {
	var r replica.Repeated
	require.True(t, r.Worth("x", errors.New("dial tcp 127.0.0.1:4711: refused")))
	require.False(t, r.Worth("x", errors.New("dial tcp 127.0.0.1:4712: refused")), "the port is another each time")
	require.True(t, r.Worth("y", errors.New("dial tcp 127.0.0.1:4712: refused")))
	require.True(t, r.Worth("x", io.EOF), "something else")
	require.True(t, r.Over("x"))
	require.False(t, r.Over("x"))
	require.True(t, r.Worth("x", io.EOF))
}

// While the tables are gone, waiting messages are looked for each second.
func TestDatabaseThatIsAwayFillsNoLog(t *testing.T) {
	log := &logged{}
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep := sibling(t, db, replica.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
	f := &fixture{rep, t, db}
	mirror[Note](f, "note")
	_, err := db.ExecContext(t.Context(), "ALTER TABLE replica_waiting RENAME TO elsewhere")
	require.NoError(t, err)
	tries := 0
	f.maintain(func() bool {
		f.Nudge()
		tries++
		return tries > 200
	})
	require.Equal(t, 1, strings.Count(log.String(), "cannot look for waiting messages"), log.String())
}
