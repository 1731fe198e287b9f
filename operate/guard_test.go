package operate_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/operate"
)

// extra puts n accounts on the replica that the master does not have, from 10,001 on.
func (s *service) extra(n int) {
	s.Helper()
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("(%d, 'extra')", 10_001+i)
	}
	if n > 0 {
		s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES "+strings.Join(rows, ", "))
	}
}

// deletedPipe runs the three stages of a deleted diff.
func (s *service) deletedPipe(o operate.Options) (operate.Deletion, error) {
	s.Helper()
	var has, extra bytes.Buffer
	_, err := operate.DeletedDiffReplica(s.Context(), s.rep, "account", &has, operate.Options{})
	require.NoError(s, err)
	if _, err = operate.DeletedDiffMaster(s.Context(), s.box, &has, &extra, o); err != nil {
		return operate.Deletion{}, err
	}
	return operate.DeletedSyncReplica(s.Context(), s.rep, &extra, o, nil)
}

func (s *service) diffAll(o operate.Options) (operate.Result, error) {
	s.Helper()
	return operate.Diff(s.Context(), s.box, s.rep, "account", &bytes.Buffer{}, operate.DiffOptions{Options: o})
}

// fill puts accounts 1 to n into both tables.
func (s *service) fill(n int) {
	s.Helper()
	for first := 1; first <= n; first += 1000 {
		rows := make([]string, min(1000, n+1-first))
		for i := range rows {
			rows[i] = fmt.Sprintf("(%d, 'account')", first+i)
		}
		s.exec(s.master, "INSERT INTO accounts (id, name) VALUES "+strings.Join(rows, ", "))
		s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES "+strings.Join(rows, ", "))
	}
}

func TestNothingWideIsDeletedUnasked(t *testing.T) {
	each(t, func(s *service) {
		for name, c := range map[string]struct {
			master, extra int // rows of the master, all of which the replica has, and rows that only the replica has
			allowed       int64
			stops         bool
		}{
			"a few of few":                      {3, 2, 0, false},
			"a hundred of few":                  {5, 100, 0, false},
			"more than a hundred of few":        {5, 101, 0, true},
			"one percent":                       {9999, 101, 0, false},
			"more than one percent":             {9998, 102, 0, true},
			"all, of a master without rows":     {0, 1, 0, true},
			"as many as allowed":                {5, 101, 101, false},
			"more than allowed":                 {5, 3, 2, true},
			"all, allowed":                      {0, 4, 4, false},
			"more than allowed, without master": {0, 4, 3, true},
		} {
			for _, table := range []string{"accounts", "outbox_messages"} {
				s.exec(s.master, "DELETE FROM "+table)
			}
			for _, table := range []string{"account_copies", "replica_revisions"} {
				s.exec(s.copies, "DELETE FROM "+table)
			}
			s.fill(c.master)
			s.extra(c.extra)
			for how, run := range map[string]func(operate.Options) error{
				"stages": func(o operate.Options) error { _, err := s.deletedPipe(o); return err },
				"diff":   func(o operate.Options) error { _, err := s.diffAll(o); return err },
			} {
				if how == "diff" && c.master > 1000 {
					continue // it would send them all
				}
				err := run(operate.Options{MaxDeletes: c.allowed})
				var tooMany *operate.TooManyDeletesError
				require.Equal(s, c.stops, errors.As(err, &tooMany), "%s, %s: %v", name, how, err)
				if !c.stops {
					require.NoError(s, err, "%s, %s", name, how)
					require.Len(s, s.copied(), c.master, "%s, %s", name, how)
					continue
				}
				require.ErrorContains(s, err, fmt.Sprintf("give --max-deletes %d", c.extra))
				require.Len(s, s.copied(), c.master+c.extra, "%s, %s", name, how)
				require.EqualValues(s, c.extra, tooMany.Deletes)
			}
		}
	})
}

func TestADiffThatOnlyChecksSaysWhatItFinds(t *testing.T) {
	each(t, func(s *service) {
		s.extra(150)
		r, err := operate.Diff(s.Context(), s.box, s.rep, "account", &bytes.Buffer{}, operate.DiffOptions{CheckOnly: true})
		require.NoError(s, err)
		require.EqualValues(s, 150, r.Extra)
		require.Len(s, s.copied(), 150)
	})
}

func TestADjangoStageThatWouldDeleteAllGetsNoKeysOfAMasterWithoutRows(t *testing.T) {
	each(t, func(s *service) {
		s.extra(2)
		var has, extra bytes.Buffer
		_, err := operate.DeletedDiffReplica(s.Context(), s.rep, "account", &has, operate.Options{})
		require.NoError(s, err)
		_, err = operate.DeletedDiffMaster(s.Context(), s.box, &has, &extra, operate.Options{})
		require.ErrorContains(s, err, "of which the master has none")
		require.Equal(s, "account,TIME,end=deleted-diff-master\n", afterTime(extra.String()))
	})
}

func TestLoadEmptiesATableOnlyWhereThatIsAllowed(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		dump := s.dump("account")
		require.EqualValues(s, 3, s.load(dump, operate.LoadOptions{Clear: true}).Applied, "an empty table asks nobody")
		s.extra(2)
		var asked *operate.TooManyDeletesError
		for _, o := range []operate.LoadOptions{
			{Clear: true},
			{Clear: true, Options: operate.Options{MaxDeletes: 4}},
			{Clear: true, Ask: func(e *operate.TooManyDeletesError) error { asked = e; return e }},
		} {
			_, err := operate.Load(s.Context(), s.rep, strings.NewReader(dump), o)
			require.ErrorContains(s, err, "would delete all 5 rows of account: nothing was deleted")
			require.Len(s, s.copied(), 5)
		}
		require.EqualValues(s, 5, asked.Deletes)
		s.load(dump, operate.LoadOptions{Clear: true, Ask: func(*operate.TooManyDeletesError) error { return nil }})
		require.Len(s, s.copied(), 3)
		s.load(dump, operate.LoadOptions{Clear: true, Options: operate.Options{MaxDeletes: 3}})
		require.Equal(s, s.wanted(), s.copied())
	})
}

// A row may be deleted although the master has it: by a diff against the wrong database, or by a
// listing of keys that another column's type spelled otherwise. What was sent of it before is as
// old as the tombstone.
func TestWhatAWrongDeleteRemovedComesBack(t *testing.T) {
	for name, repair := range map[string]func(s *service){
		"diff": func(s *service) {
			r, err := s.diffAll(operate.Options{})
			require.NoError(s, err)
			require.EqualValues(s, 3, r.Sent)
			s.carry()
		},
		"sync": func(s *service) {
			_, err := operate.Sync(s.Context(), s.box, "account", operate.SyncOptions{})
			require.NoError(s, err)
			s.carry()
		},
		"dump and load": func(s *service) {
			require.EqualValues(s, 3, s.load(s.dump("account"), operate.LoadOptions{}).Applied-1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(s *service) {
				s.exec(s.master, "INSERT INTO accounts (id, name) VALUES (1, 'from before')")
				s.accounts(2, 4)
				s.rename(3, "renamed")
				s.exec(s.master, "DELETE FROM outbox_messages")
				s.load(s.dump("account"), operate.LoadOptions{})
				s.exec(s.copies, "DELETE FROM replica_revisions WHERE "+s.quoted("key")+" = '2'")
				for night := range 2 {
					_, err := operate.DeletedSyncReplica(s.Context(), s.rep,
						strings.NewReader("account,"+s.replicaTime()+"\n[1,2,3]\n"), operate.Options{}, nil)
					require.NoError(s, err)
					require.Len(s, s.copied(), 1)
					repair(s)
					require.Equal(s, s.wanted(), s.copied(), "night %d", night)
					r, err := s.diffAll(operate.Options{})
					require.NoError(s, err)
					require.True(s, r.Equal(), "%+v", r)
				}
				s.remove(3)
				s.carry()
				require.Equal(s, s.wanted(), s.copied(), "and a real delete is one")
			})
		})
	}
}

// replicaTime is what a listing of the replica has in its first line: the time of the replica's
// database, whose clock may be coarser than ours.
func (s *service) replicaTime() string {
	now, err := s.rep.Now(s.Context())
	require.NoError(s, err)
	return envelope.FormatTime(now)
}

func (s *service) quoted(name string) string {
	if s.copies.Dialect().Name().String() == "mysql" {
		return "`" + name + "`"
	}
	return `"` + name + `"`
}

func TestNothingIsDeletedOnTheWordOfAStageThatFailed(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		s.carry()
		cut := "account," + s.replicaTime() + ",end=deleted-diff-master\n[2]\n"
		_, err := operate.DeletedSyncReplica(s.Context(), s.rep, strings.NewReader(cut), operate.Options{}, nil)
		require.ErrorContains(s, err, "deleted-diff-master failed")
		require.Len(s, s.copied(), 3)
		d, err := operate.DeletedSyncReplica(s.Context(), s.rep, strings.NewReader(cut+"[]\n"), operate.Options{}, nil)
		require.NoError(s, err)
		require.EqualValues(s, 1, d.Deleted)
	})
}
