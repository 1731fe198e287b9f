package operate_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
)

// lines is what a diff writes below its two first lines.
func lines(text string) (keys []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "[") {
			keys = append(keys, strings.TrimSpace(line))
		}
	}
	return keys
}

func (s *service) digested(model string, o operate.DiffOptions) (operate.Result, []string) {
	s.Helper()
	o.Digest = true
	var text bytes.Buffer
	result, err := operate.Diff(s.Context(), s.box, s.rep, model, &text, o)
	require.NoError(s, err)
	return result, lines(text.String())
}

func (s *service) forget(db *bun.DB, table, key string) {
	s.Helper()
	result, err := db.NewDelete().Table(table).Where("? = ?", bun.Ident("key"), key).Exec(s.Context())
	require.NoError(s, err)
	n, err := result.RowsAffected()
	require.NoError(s, err)
	require.EqualValues(s, 1, n)
}

func TestDigestsFindTheKeysThatDifferAndRepairThem(t *testing.T) {
	each(t, func(s *service) {
		const n = 300 // several ranges
		pages := operate.Options{PageSize: 64}
		s.accounts(1, n)
		s.carry()
		result, keys := s.digested("account", operate.DiffOptions{Options: pages})
		require.True(s, result.Equal(), "%+v", result)
		require.EqualValues(s, n, result.Compared)
		require.Empty(s, keys)

		s.exec(s.copies, "DELETE FROM account_copies WHERE id = 17")
		s.rename(299, "lost")
		s.remove(n)
		s.exec(s.master, "DELETE FROM outbox_messages")
		s.exec(s.copies, "INSERT INTO account_copies VALUES (7000, 'phantom')")
		s.forget(s.copies, "replica_revisions", "200") // of which the row is there
		result, keys = s.digested("account", operate.DiffOptions{CheckOnly: true, Options: pages})
		require.EqualValues(s, 3, result.Differing)
		require.EqualValues(s, 2, result.Extra)
		require.EqualValues(s, n-1, result.Compared)
		require.Equal(s, []string{"[17]", "[200]", "[299]", "[300]", "[7000]"}, single(keys))

		result, _ = s.digested("account", operate.DiffOptions{})
		require.EqualValues(s, 3, result.Sent)
		require.EqualValues(s, 2, result.Deleted)
		s.carry()
		result, keys = s.digested("account", operate.DiffOptions{CheckOnly: true})
		require.True(s, result.Equal(), "%+v %s", result, keys)
		require.Equal(s, fmt.Sprint(s.wanted()), fmt.Sprint(s.copied()))
	})
}

// single has each key in a list of its own, in order.
func single(lists []string) (keys []string) {
	for _, list := range lists {
		for _, key := range strings.Split(strings.Trim(list, "[]"), ",") {
			keys = append(keys, "["+key+"]")
		}
	}
	return keys
}

func TestDigestsOfRowsThatAreOlderThanCqrsync(t *testing.T) {
	each(t, func(s *service) {
		for id := range 30 {
			s.exec(s.master, fmt.Sprintf("INSERT INTO accounts VALUES (%d, 'old')", id))
		}
		s.load(s.dump("account"), operate.LoadOptions{})
		s.exec(s.copies, "DELETE FROM account_copies WHERE id = 7")
		check := operate.DiffOptions{CheckOnly: true, Options: operate.Options{PageSize: 4}}
		result, keys := s.digested("account", check)
		require.Equal(s, []string{"[7]"}, keys)
		require.EqualValues(s, 30, result.Compared)
		known, err := s.master.NewSelect().Table("outbox_revisions").Count(s.Context())
		require.NoError(s, err)
		require.Zero(s, known, "a check writes nothing")

		result, keys = s.digested("account", operate.DiffOptions{Options: check.Options})
		require.Equal(s, []string{"[7]"}, keys)
		require.EqualValues(s, 1, result.Sent)
		known, err = s.master.NewSelect().Table("outbox_revisions").Count(s.Context())
		require.NoError(s, err)
		require.EqualValues(s, 30, known)
		s.carry()
		result, _ = s.digested("account", check)
		require.True(s, result.Equal(), "%+v", result)
	})
}

func TestDigestsOfKeysOfTextAndOfSeveralColumns(t *testing.T) {
	each(t, func(s *service) {
		tags := []*Tag{{Name: "1"}, {Name: "10"}, {Name: "1,0],[2"}, {Name: `"quoted"`}, {Name: "<ü>"}, {Name: "b"}, {Name: "C"}}
		s.insert(&tags)
		seats := []*Seat{{Row: 1, Place: "a"}, {Row: 1, Place: "B"}, {Row: 2, Place: `"`}, {Row: 10, Place: "<ü>"}}
		s.insert(&seats)
		s.carry()
		o := operate.DiffOptions{CheckOnly: true, Options: operate.Options{PageSize: 2}}
		for _, model := range []string{"tag", "seat"} {
			result, keys := s.digested(model, o)
			require.True(s, result.Equal(), "%s: %+v %s", model, result, keys)
		}
		_, err := s.copies.NewDelete().Table("tags").Where("name IN ('<ü>', 'C')").Exec(s.Context())
		require.NoError(s, err)
		s.exec(s.copies, "DELETE FROM seats WHERE place = '<ü>'")
		s.exec(s.copies, "INSERT INTO seats VALUES (11, 'x', 'nobody')")
		s.exec(s.copies, "INSERT INTO tags VALUES ('[0', 'red')")
		for model, want := range map[string][]string{
			"tag": {`["<ü>","C"]`, `["[0"]`}, "seat": {`[[10,"<ü>"]]`, `[[11,"x"]]`},
		} {
			result, keys := s.digested(model, o)
			require.Equal(s, want, keys)
			require.EqualValues(s, 1, result.Extra)
			result, _ = s.digested(model, operate.DiffOptions{Options: o.Options})
			require.EqualValues(s, 1, result.Deleted)
			s.carry()
			result, keys = s.digested(model, o)
			require.True(s, result.Equal(), "%s: %+v %s", model, result, keys)
		}
	})
}

func TestDigestsCompareNoPartsAndNoColumns(t *testing.T) {
	s := newService(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	filter, err := operate.ParseFilter(`{"id": 1}`)
	require.NoError(t, err)
	_, err = operate.Diff(t.Context(), s.box, s.rep, "account", &bytes.Buffer{}, operate.DiffOptions{
		Digest: true, Content: true, Options: operate.Options{Filter: filter},
	})
	require.ErrorContains(t, err, "Digest and Content: ")
	require.ErrorContains(t, err, "Digest and Filter: ")
}
