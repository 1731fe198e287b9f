package operate_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
)

// A replica may hold a line against its ledger word for word. Whatever the words are, it must find
// the same.
func TestDifferencesAreFoundInWhateverWordsAndOrder(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(8, 111)
		s.carry()
		s.rename(99, "at revision 1")
		s.carry()
		numbered := func(separator string) string { // as django-cqrs lists them
			var pairs []string
			for id := 8; id <= 111; id++ {
				revision := 0
				if id == 99 {
					revision = 1
				}
				pairs = append(pairs, fmt.Sprintf("[%d,%s%d]", id, separator, revision))
			}
			return "[" + strings.Join(pairs, ","+separator) + "]\n"
		}
		var own bytes.Buffer
		_, err := operate.DiffMaster(s.Context(), s.box, "account", &own, operate.DiffMasterOptions{})
		require.NoError(s, err)
		first, line, _ := strings.Cut(strings.TrimSuffix(own.String(), "[]\n"), "\n")
		first = strings.TrimSuffix(first, ",end=diff-master") // as Django's, whose words these are
		found := func(lines ...string) string {
			var b bytes.Buffer
			f, err := operate.DiffReplica(s.Context(), s.rep, strings.NewReader(first+"\n"+strings.Join(lines, "")), &b, operate.Options{})
			require.NoError(s, err)
			require.EqualValues(s, 104*len(lines), f.Compared)
			_, keys, _ := strings.Cut(b.String(), "\n")
			return strings.TrimSpace(strings.TrimSuffix(keys, "[]\n"))
		}
		words := []string{line, numbered(""), numbered(" ")}
		for _, line := range words {
			require.Empty(s, found(line))
		}
		require.Empty(s, found(words[1], words[0], words[2]))

		_, err = s.copies.NewDelete().Table("replica_revisions").Where("? = '10'", bun.Ident("key")).Exec(s.Context())
		require.NoError(s, err, "its row is there, out of the ledger's sight")
		_, err = s.copies.NewUpdate().Table("replica_revisions").Set("revision = 0").Where("? = '99'", bun.Ident("key")).Exec(s.Context())
		require.NoError(s, err)
		for _, line := range words {
			require.ElementsMatch(s, []string{"10", "99"}, strings.Split(strings.Trim(found(line), "[]"), ","))
		}
		s.exec(s.copies, "DELETE FROM account_copies WHERE id = 10") // now the ledger speaks for the table
		for _, line := range words {
			require.ElementsMatch(s, []string{"10", "99"}, strings.Split(strings.Trim(found(line), "[]"), ","))
		}
		require.ElementsMatch(s, []string{"10", "99", "10", "99"},
			strings.Split(strings.Trim(found(words[0], words[1]), "[]"), ","))
	})
}

func TestKeysThatAreTextsAreComparedPageByPage(t *testing.T) {
	each(t, func(s *service) {
		tags := []*Tag{{Name: "1"}, {Name: "10"}, {Name: "1,0],[2"}, {Name: `"quoted"`}, {Name: "<ü>"}, {Name: "b"}, {Name: "c"}}
		s.insert(&tags)
		s.carry()
		o := operate.DiffOptions{Options: operate.Options{PageSize: 2}, CheckOnly: true}
		result, err := operate.Diff(s.Context(), s.box, s.rep, "tag", io.Discard, o)
		require.NoError(s, err)
		require.Equal(s, operate.Result{Difference: operate.Difference{Model: "tag", Compared: 7}}, result)

		_, err = s.copies.NewUpdate().Table("replica_revisions").Set("revision = -1").
			Where("? IN (?)", bun.Ident("key"), bun.List([]string{"1,0],[2", "<ü>"})).Exec(s.Context())
		require.NoError(s, err)
		var found bytes.Buffer
		result, err = operate.Diff(s.Context(), s.box, s.rep, "tag", &found, o)
		require.NoError(s, err)
		require.EqualValues(s, 2, result.Differing)
		require.Contains(s, found.String(), `"1,0],[2"`)
		require.Contains(s, found.String(), `"<ü>"`)
	})
}
