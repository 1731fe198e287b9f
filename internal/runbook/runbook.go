// Package runbook holds tests to docs/operations.md: what a tool printed while a scenario was
// played has the words that the page promises for it.
//
//	runbook.Says(t, "the broker is down", runbook.Status(t, tables, "--patience", "1s"))
//
// Neighbours: operate/diagnosis has the words, and writes the page's table of them.
package runbook

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/admin/commands"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// Scenario is a row of the page's table of scenarios.
type Scenario struct {
	Name string
	// Kinds are what the row links to as being said.
	Kinds []diagnosis.Kind
	// Tests are the names and folders of the tests that play it.
	Tests [][2]string
}

var (
	anchors = regexp.MustCompile(`\]\(#([a-z-]+)\)`)
	tests   = regexp.MustCompile("`(Test[A-Za-z]+)` in `([a-z/]+)`")
)

// Scenarios reads the page.
func Scenarios(t testing.TB) []Scenario {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Root(t), "docs", "operations.md"))
	require.NoError(t, err)
	_, rest, is := strings.Cut(string(text), "| scenario | what is said | what to do | test |\n")
	require.True(t, is, "docs/operations.md has no table of scenarios")
	table, _, _ := strings.Cut(rest, "\n\n")
	var all []Scenario
	for row := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if strings.HasPrefix(row, "|--") {
			continue
		}
		require.Len(t, cells, 4, "the row %q", row)
		s := Scenario{Name: cells[0]}
		for _, anchor := range anchors.FindAllStringSubmatch(cells[1], -1) {
			s.Kinds = append(s.Kinds, diagnosis.Kind(anchor[1]))
		}
		for _, test := range tests.FindAllStringSubmatch(cells[3], -1) {
			s.Tests = append(s.Tests, [2]string{test[1], test[2]})
		}
		all = append(all, s)
	}
	return all
}

// Root is the folder of the repository.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "docs", "operations.md")); err == nil {
			return dir
		}
		require.NotEqual(t, dir, filepath.Dir(dir), "docs/operations.md is nowhere above")
	}
}

// Says fails the test unless what a tool printed has one of the sentences that the page's row for
// the scenario promises, and what to do about it.
func Says(t testing.TB, scenario, printed string) {
	t.Helper()
	if why := wrong(t, scenario, printed); why != "" {
		require.FailNow(t, "other words than those of docs/operations.md", why)
	}
}

// wrong says why the page does not promise what was printed; empty where it does.
func wrong(t testing.TB, scenario, printed string) string {
	t.Helper()
	all := Scenarios(t)
	at := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == scenario })
	require.GreaterOrEqual(t, at, 0, "docs/operations.md has no scenario %q", scenario)
	words := strings.Join(strings.Fields(printed), " ") // a terminal breaks lines
	for _, kind := range all[at].Kinds {
		require.NotEmpty(t, kind.Says(), "nothing is said of %q", kind)
		if kind.In(words) && strings.Contains(words, kind.Do()) {
			return ""
		}
	}
	return fmt.Sprintf("of %q it promises %v with what to do, and this was said:\n%s", scenario,
		all[at].Kinds, printed)
}

// Status is what `relay status` prints, given these flags.
func Status(t testing.TB, tables *admin.Tables, flags ...string) string {
	t.Helper()
	var out bytes.Buffer
	source := commands.Source{
		Open: func(context.Context, bool) (*admin.Tables, error) { return tables, nil },
	}
	relay := &cli.Command{Name: "relay", Commands: source.Commands(), Writer: &out, ErrWriter: &out,
		ExitErrHandler: func(context.Context, *cli.Command, error) {}}
	err := relay.Run(t.Context(), append([]string{"relay", "status"}, flags...))
	if err != nil { // what is away is said, and fails, too
		out.WriteString("\n" + err.Error())
	}
	return out.String()
}

// WillSay waits until a tool says what the page promises for the scenario, as Says has it.
func WillSay(t testing.TB, scenario string, print func() string) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		printed := print()
		if why := wrong(t, scenario, printed); why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			Says(t, scenario, print())
			return
		}
	}
}
