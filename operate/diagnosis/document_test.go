package diagnosis_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

const page = "../../docs/operations.md"

// The table by symptom is that of the code, so what tools print is found in it. UPDATE=1 writes it.
func TestTheRunbookHasEachTrouble(t *testing.T) {
	const begin, end = "<!-- troubles -->\n", "<!-- /troubles -->\n"
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, is := strings.Cut(string(text), begin)
	require.True(t, is, "%s has no %q", page, begin)
	_, after, is := strings.Cut(rest, end)
	require.True(t, is, "%s has no %q", page, end)
	var table strings.Builder
	fmt.Fprintln(&table, "\n| what you see | what is said | what to do | alert |\n|---|---|---|---|")
	for _, k := range diagnosis.Kinds() {
		require.NotEmpty(t, k.Sees(), k)
		require.NotEmpty(t, k.Do(), k)
		fmt.Fprintf(&table, "| <a id=%q></a>%s | %s | %s | `%s` |\n", string(k), k.Sees(),
			strings.NewReplacer("{", "*", "}", "*").Replace(strings.Join(k.Says(), "; or ")), k.Do(),
			k.Alert())
	}
	want := before + begin + table.String() + "\n" + end + after
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(page, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(text), "UPDATE=1 go test ./operate/diagnosis -run Runbook")
}

// Each scenario of the runbook names a test that plays it, and holds what was printed to the row.
func TestTheRunbooksScenariosArePlayed(t *testing.T) {
	all := runbook.Scenarios(t)
	require.GreaterOrEqual(t, len(all), 14)
	for _, s := range all {
		require.NotEmpty(t, s.Kinds, "the row %q says nothing", s.Name)
		require.NotEmpty(t, s.Tests, "the row %q names no test", s.Name)
		compared := false
		for _, test := range s.Tests {
			body := function(t, test[0], test[1])
			require.NotEmpty(t, body, "%s is not in %s", test[0], test[1])
			compared = compared || strings.Contains(body, fmt.Sprintf("%q", s.Name))
		}
		require.True(t, compared, "no test compares what is said of %q", s.Name)
	}
}

// function is the text of a test.
func function(t *testing.T, name, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(runbook.Root(t), folder, "*_test.go"))
	require.NoError(t, err)
	for _, file := range files {
		code, err := os.ReadFile(file) //nolint:gosec // a file of the repository
		require.NoError(t, err)
		if _, after, is := strings.Cut(string(code), "func "+name+"("); is {
			body, _, _ := strings.Cut(after, "\n}\n")
			return body
		}
	}
	return ""
}

// A sentence is told from those of all other kinds, whatever its values are.
func TestASentenceBelongsToOneKind(t *testing.T) {
	braces := strings.NewReplacer("{", "", "}", "")
	for _, k := range append(diagnosis.Kinds(), diagnosis.ReplicaDatabaseAway) {
		require.NotEmpty(t, k.Says(), k)
		for _, says := range k.Says() {
			for _, other := range diagnosis.Kinds() {
				printed := "A line before.\n" + strings.ReplaceAll(braces.Replace(says), " ", "\n  ") +
					": why.\n  Do: nothing."
				require.Equal(t, k == other, other.In(printed), "%s: %s", other, printed)
			}
		}
	}
}

// What only the replica's own database can say has the words of its row, too.
func TestTheRunbookHasTheReplicasDatabase(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	k := diagnosis.ReplicaDatabaseAway
	require.Contains(t, string(text), fmt.Sprintf("| <a id=%q></a>%s | %s |", string(k), k.Sees(), k.Do()))
}
