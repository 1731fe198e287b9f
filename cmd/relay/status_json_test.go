package main

import (
	"fmt"
	"go/ast"
	"go/printer"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const statusHead = `# What status prints as JSON

` + "`relay status --json`" + ` is one object, and so is ` + "`relay status --json --side replica`" + `. Names are added, and never changed or taken
away. Times are RFC 3339, in UTC. Nothing is printed where the database is away: then the error and the exit code say so.
This page is written by a test (` + "`UPDATE=1 go test ./cmd/relay -run StatusAsJSON`" + `) and checked by it.
`

// shownAsJSON are the structs that status prints, and where they stand.
var shownAsJSON = []struct{ title, folder, name string }{
	{"`relay status --json`", "operate/admin/commands", "masterStatusObject"},
	{"`relay status --json --side replica`", "operate/diagnosis", "ReplicaState"},
	{"the same, beside it", "operate/admin", "ReplicaStatus"},
	{"Trouble", "operate/diagnosis", "Trouble"},
	{"StuckGroup", "operate/admin", "StuckGroup"},
	{"StuckKey", "operate/admin", "StuckKey"},
	{"Outage", "operate/admin", "Outage"},
	{"KnownReplica", "operate/admin", "KnownReplica"},
	{"ReplicaModel", "operate/admin", "ReplicaModel"},
	{"ReplicaStuck", "operate/admin", "ReplicaStuck"},
	{"ReplicaBackfill", "operate/admin", "ReplicaBackfill"},
	{"ReplicaVerification", "operate/admin", "ReplicaVerification"},
	{"KnownMaster", "operate/admin", "KnownMaster"},
	{"OtherDatabase", "operate/admin", "OtherDatabase"},
}

// What status prints for programs is on a page, which is what the structs say.
func TestStatusAsJSONIsOnItsPage(t *testing.T) {
	const path = "../../docs/status.md"
	var page strings.Builder
	page.WriteString(statusHead)
	titles := map[string]bool{}
	for _, s := range shownAsJSON {
		titles[s.name] = true
	}
	for _, s := range shownAsJSON {
		fmt.Fprintf(&page, "\n## %s\n\n| name | type | meaning |\n|---|---|---|\n", s.title)
		writeJSONFields(t, &page, structOf(t, s.folder, s.name), titles)
	}
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644)) //nolint:gosec // a page of the repository
		return
	}
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(written), page.String(), "run UPDATE=1 go test ./cmd/relay -run StatusAsJSON")
}

var (
	jsonName = regexp.MustCompile(`json:"([a-z_]+)(,omitempty|,omitzero)?"`)
	typeName = regexp.MustCompile(`[A-Z]\w*`)
)

func writeJSONFields(t *testing.T, page *strings.Builder, of *ast.StructType, titles map[string]bool) {
	t.Helper()
	names := []string{} // Go's and JSON's, which comments are told in
	for _, field := range of.Fields.List {
		if tag := tagOf(field); tag != nil {
			names = append(names, field.Names[0].Name, "`"+tag[1]+"`")
		}
	}
	inJSON := func(text string) string {
		for i := 0; i < len(names); i += 2 {
			text = regexp.MustCompile(`\b`+names[i]+`\b`).ReplaceAllLiteralString(text, names[i+1])
		}
		return text
	}
	for _, field := range of.Fields.List {
		tag := tagOf(field)
		if tag == nil {
			continue
		}
		meaning := "as said above"
		if doc := field.Doc.Text(); doc != "" {
			meaning = inJSON(cell(doc))
		}
		require.NotEmpty(t, meaning)
		var typ strings.Builder
		require.NoError(t, printer.Fprint(&typ, token.NewFileSet(), field.Type))
		shown := strings.NewReplacer("*", "", "admin.", "", "diagnosis.", "", "time.Time", "time", "int64", "number",
			"float64", "number", "int", "number", "bool", "true or false", "Kind", "string").Replace(typ.String())
		shown = strings.ReplaceAll(shown, "[]", "list of ")
		shown = regexp.MustCompile(`map\[string\](.*)`).ReplaceAllString(shown, "object of $1")
		shown = typeName.ReplaceAllStringFunc(shown, func(name string) string {
			require.True(t, titles[name], "%s is not on the page", name)
			return "[" + name + "](#" + strings.ToLower(name) + ")"
		})
		if tag[2] != "" {
			shown += ", or not there"
		} else if strings.HasPrefix(typ.String(), "*") {
			shown += ", or null"
		}
		fmt.Fprintf(page, "| `%s` | %s | %s |\n", tag[1], shown, meaning)
	}
}

func tagOf(field *ast.Field) []string {
	if field.Tag == nil || len(field.Names) == 0 {
		return nil
	}
	return jsonName.FindStringSubmatch(field.Tag.Value)
}
