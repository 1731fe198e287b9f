package diagnosis_test

import (
	"fmt"
	"os"
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
	fmt.Fprintln(&table, "\n| what is wrong | what to do |\n|---|---|")
	for _, k := range diagnosis.Kinds() {
		require.NotEmpty(t, k.Sees(), k)
		require.NotEmpty(t, k.Do(), k)
		fmt.Fprintf(&table, "| <a id=%q></a>%s | %s |\n", string(k), k.Sees(), k.Do())
	}
	want := before + begin + table.String() + "\n" + end + after
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(page, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(text), "UPDATE=1 go test ./operate/diagnosis -run Runbook")
}
