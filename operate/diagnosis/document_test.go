package diagnosis_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

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
	fmt.Fprintln(&table, "\n| what you see | what to do | alert |\n|---|---|---|")
	for _, k := range diagnosis.Kinds() {
		require.NotEmpty(t, k.Sees(), k)
		require.NotEmpty(t, k.Do(), k)
		fmt.Fprintf(&table, "| <a id=%q></a>%s | %s | `%s` |\n", string(k), k.Sees(), k.Do(),
			k.Alert())
	}
	want := before + begin + table.String() + "\n" + end + after
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(page, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(text), "UPDATE=1 go test ./operate/diagnosis -run Runbook")
}

// Each scenario of the runbook names a test that plays it.
func TestTheRunbooksScenariosArePlayed(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	_, rest, is := strings.Cut(string(text), "| scenario |")
	require.True(t, is)
	table, _, _ := strings.Cut(rest, "\n\n")
	named := regexp.MustCompile("`(Test[A-Za-z]+)` in `([a-z/]+)`").FindAllStringSubmatch(table, -1)
	require.GreaterOrEqual(t, len(named), strings.Count(table, "\n")-1, "a row without a test")
	for _, name := range named {
		files, err := filepath.Glob("../../" + name[2] + "/*_test.go")
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(files, func(file string) bool {
			code, err := os.ReadFile(file) //nolint:gosec // a file of the repository
			return err == nil && strings.Contains(string(code), "func "+name[1]+"(")
		}), "%s is not in %s", name[1], name[2])
	}
}
