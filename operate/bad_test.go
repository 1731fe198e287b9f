package operate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Parcel has a key of text, and columns that hold what the wire has no form for.
type Parcel struct {
	bun.BaseModel `bun:"table:parcels"`

	ID     string  `bun:",pk,type:varchar(100)"`
	Weight float64 `bun:"type:double precision"`
	Note   string
}

// newParcels are a master with parcels p00 to p29 and three that cannot be sent, and an empty
// replica.
func newParcels(t *testing.T, newURL func(testing.TB) string, options ...outbox.Option) *service {
	s := &service{T: t, master: dbtest.Open(t, newURL(t)), copies: dbtest.Open(t, newURL(t))}
	for _, db := range []*bun.DB{s.master, s.copies} {
		_, err := db.NewCreateTable().Model((*Parcel)(nil)).Exec(t.Context())
		require.NoError(t, err)
	}
	for i := range 30 {
		s.exec(s.master, fmt.Sprintf("INSERT INTO parcels (id, weight, note) VALUES ('p%02d', 1, 'good')", i))
	}
	s.exec(s.master, "INSERT INTO parcels (id, weight, note) VALUES ('', 1, 'without a key')")
	for _, id := range []string{"p07x", "p29x"} {
		s.exec(s.master, "INSERT INTO parcels (id, weight, note) VALUES ('"+id+"', 1, 'unsendable')")
	}
	if s.kind() == "pg" {
		s.exec(s.master, "UPDATE parcels SET weight = 'NaN' WHERE id = 'p07x'")
	}
	var err error
	s.box, err = outbox.New(s.master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Parcel](s.box, "parcel", options...))
	require.NoError(t, s.box.Migrate(t.Context()))
	s.rep, err = replica.New(s.copies, replica.Config{Queue: "replica_a", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, replica.Register[Parcel](s.rep, "parcel"))
	require.NoError(t, s.rep.Migrate(t.Context()))
	return s
}

func (s *service) kind() string { return s.master.Dialect().Name().String() }

// serializer refuses rows by their note.
var serializer = outbox.Serializer(func(_ context.Context, _ bun.IDB, rows []*Parcel) ([]any, error) {
	objects := make([]any, len(rows))
	for i, row := range rows {
		objects[i] = picky{row}
	}
	return objects, nil
})

type picky struct{ *Parcel }

func (p picky) MarshalJSON() ([]byte, error) {
	if p.Note == "unsendable" {
		return nil, errors.New("this one cannot be written")
	}
	return json.Marshal(map[string]any{"id": p.ID, "weight": p.Weight, "note": p.Note})
}

func eachParcels(t *testing.T, test func(s *service)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newParcels(t, newURL, serializer))
		})
	}
}

// namedBad runs an operation and returns the keys that it named.
func (s *service) namedBad(run func(o operate.Options) error) []string {
	s.Helper()
	named := map[string]int{}
	err := run(operate.Options{PageSize: 20, BadRow: func(pk json.RawMessage, err error) {
		require.Error(s, err)
		named[string(pk)]++
	}})
	var left *operate.BadRowsError
	require.ErrorAs(s, err, &left)
	require.EqualValues(s, len(named), left.Rows, "each once: %v", named)
	return slices.Sorted(maps.Keys(named))
}

var unsendable = []string{`""`, `"p07x"`, `"p29x"`}

func TestOneRowThatCannotBeSentDoesNotStopTheOthers(t *testing.T) {
	eachParcels(t, func(s *service) {
		var dump bytes.Buffer
		require.Equal(s, unsendable, s.namedBad(func(o operate.Options) error {
			n, err := operate.Dump(s.Context(), s.box, "parcel", &dump, operate.DumpOptions{Options: o, EndMark: true})
			require.EqualValues(s, 30, n)
			return err
		}))
		loaded, err := operate.Load(s.Context(), s.rep, bytes.NewReader(dump.Bytes()), operate.LoadOptions{})
		require.EqualValues(s, 30, loaded.Applied)
		require.ErrorContains(s, err, "dump failed, was interrupted or left rows out")

		var sent int64
		require.Equal(s, unsendable, s.namedBad(func(o operate.Options) (err error) {
			sent, err = operate.Sync(s.Context(), s.box, "parcel", operate.SyncOptions{Options: o})
			return err
		}))
		require.EqualValues(s, 30, sent)
		require.Equal(s, 30, s.carry())

		s.exec(s.copies, "UPDATE parcels SET note = 'drifted' WHERE id = 'p10'")
		var listed, differing bytes.Buffer
		require.Equal(s, unsendable, s.namedBad(func(o operate.Options) error {
			_, err := operate.DiffMaster(s.Context(), s.box, "parcel", &listed, operate.DiffMasterOptions{Options: o, Content: true})
			return err
		}))
		found, err := operate.DiffReplica(s.Context(), s.rep, &listed, &differing, operate.Options{})
		require.Equal(s, operate.Difference{Model: "parcel", Compared: 30, Differing: 1, Content: true}, found, "what came was compared")
		require.ErrorAs(s, err, new(*operate.CutShortError))
		n, err := operate.DiffSync(s.Context(), s.box, &differing, operate.Options{})
		require.EqualValues(s, 1, n, "and what differed is sent")
		require.ErrorAs(s, err, new(*operate.CutShortError))

		for _, content := range []bool{false, true} {
			named := map[string]bool{}
			r, err := operate.Diff(s.Context(), s.box, s.rep, "parcel", &bytes.Buffer{}, operate.DiffOptions{
				Content: content, Options: operate.Options{BadRow: func(pk json.RawMessage, _ error) { named[string(pk)] = true }},
			})
			require.NoError(s, err)
			require.EqualValues(s, 3, r.BadRows, "%+v", r)
			require.Len(s, named, 3)
			require.False(s, r.Equal())
			require.Zero(s, r.Deleted)
		}
	})
}

func TestAKeyThatNoRowCanHaveDoesNotStopDiffSync(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		s.exec(s.master, "DELETE FROM outbox_messages")
		var named []string
		sent, err := operate.DiffSync(s.Context(), s.box, strings.NewReader("account,2026-11-24 12:00:00+00:00,webhooks\n[1,\"x\",3]\n"),
			operate.Options{BadRow: func(pk json.RawMessage, _ error) { named = append(named, string(pk)) }})
		require.ErrorAs(s, err, new(*operate.BadRowsError))
		require.EqualValues(s, 2, sent)
		require.Equal(s, []string{`"x"`}, named)
	})
}

func TestARowOfTheReplicaThatCannotBeReadDiffers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, _ *bun.DB) {}) // names what is skipped
	newURL, found := dbtest.Kinds()["postgres"]
	if !found {
		return
	}
	s := newParcels(t, newURL, serializer)
	s.exec(s.master, "DELETE FROM parcels WHERE id NOT LIKE 'p__'")
	s.load(s.dump("parcel"), operate.LoadOptions{})
	s.exec(s.copies, "UPDATE parcels SET weight = 'NaN' WHERE id = 'p03'")
	r, err := operate.Diff(t.Context(), s.box, s.rep, "parcel", &bytes.Buffer{}, operate.DiffOptions{Content: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Sent, "%+v", r)
	s.carry()
	r, err = operate.Diff(t.Context(), s.box, s.rep, "parcel", &bytes.Buffer{}, operate.DiffOptions{Content: true})
	require.NoError(t, err)
	require.True(t, r.Equal(), "%+v", r)
}

func TestADatabaseThatIsGoneIsNoBadRow(t *testing.T) {
	eachParcels(t, func(s *service) {
		s.exec(s.master, "DELETE FROM parcels WHERE id = ''")
		s.exec(s.master, "DROP TABLE outbox_revisions")
		_, err := operate.Dump(s.Context(), s.box, "parcel", &bytes.Buffer{}, operate.DumpOptions{
			Options: operate.Options{BadRow: func(pk json.RawMessage, err error) { s.Errorf("%s: %v", pk, err) }},
		})
		require.Error(s, err)
		require.False(s, errors.As(err, new(*operate.BadRowsError)), "%v", err)
	})
}

func TestAStageThatFailedDoesNotLookLikeOneThatFoundNothing(t *testing.T) {
	each(t, func(s *service) {
		const first = "account,2026-11-24 12:00:00+00:00"
		for name, run := range map[string]func(input string, o operate.Options) error{
			"diff-master": func(input string, o operate.Options) error {
				_, err := operate.DiffReplica(s.Context(), s.rep, strings.NewReader(input), &bytes.Buffer{}, o)
				return err
			},
			"diff-replica": func(input string, o operate.Options) error {
				_, err := operate.DiffSync(s.Context(), s.box, strings.NewReader(input+",webhooks"), o)
				return err
			},
			"deleted-diff-replica": func(input string, o operate.Options) error {
				_, err := operate.DeletedDiffMaster(s.Context(), s.box, strings.NewReader(input), &bytes.Buffer{}, o)
				return err
			},
			"deleted-diff-master": func(input string, o operate.Options) error {
				_, err := operate.DeletedSyncReplica(s.Context(), s.rep, strings.NewReader(input), o, nil)
				return err
			},
		} {
			if name != "diff-replica" {
				require.ErrorIs(s, run("", operate.Options{}), operate.ErrEmptyInput, name)
				require.NoError(s, run("", operate.Options{AllowEmpty: true}), name)
			}
			require.ErrorAs(s, run(first+",end="+name, operate.Options{}), new(*operate.CutShortError), name)
			if name == "diff-master" || name == "deleted-diff-replica" {
				var died *operate.HeaderOnlyError
				require.ErrorAs(s, run(first+"\n", operate.Options{}), &died, "Django writes no header where it finds nothing")
				require.ErrorContains(s, died, name+" failed")
				require.NoError(s, run(first+"\n[]\n", operate.Options{}), "%s: a page that is kept from replicas", name)
			} else {
				require.NoError(s, run(first, operate.Options{}), "%s: Django has no mark", name)
				require.NoError(s, run(first+",end=before", operate.Options{}), "%s: Django passes on what it read", name)
			}
			if name == "diff-replica" {
				continue
			}
			require.NoError(s, run(first+",end="+name+"\n[]\n", operate.Options{}), name)
			require.ErrorContains(s, run(first+",end="+name+"\n[]\n[]\n", operate.Options{}), "behind the end mark", name)
		}
		_, err := operate.Load(s.Context(), s.rep, strings.NewReader("account,end=dump"), operate.LoadOptions{})
		require.ErrorContains(s, err, "dump failed")
		_, err = operate.Load(s.Context(), s.rep, strings.NewReader("account,end=dump\n{}\n"), operate.LoadOptions{})
		require.NoError(s, err)
		_, err = operate.Load(s.Context(), s.rep, strings.NewReader("account,what=ever\n{}\n"), operate.LoadOptions{})
		require.ErrorContains(s, err, "line 1")
	})
}

func TestWhatIsLeftOutByAnInterruptedRunLeavesOutTheMark(t *testing.T) {
	each(t, func(s *service) {
		for leftOut, ends := range map[bool]int{false: 1, true: 0} {
			var dump, listed bytes.Buffer
			o := operate.Options{LeftOut: leftOut}
			_, err := operate.Dump(s.Context(), s.box, "account", &dump, operate.DumpOptions{Options: o, EndMark: true})
			require.NoError(s, err)
			require.Equal(s, ends, strings.Count(dump.String(), "\n{}\n"))
			_, err = operate.DiffMaster(s.Context(), s.box, "account", &listed, operate.DiffMasterOptions{Options: o})
			require.NoError(s, err)
			require.Equal(s, ends, strings.Count(listed.String(), "\n[]\n"))
		}
	})
}
