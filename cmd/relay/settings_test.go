package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"
)

const settingsHead = `# Settings

Every flag of every command of ` + "`relay`" + `, and every field of every configuration in Go and in cqrsync.yaml. This page is written by a
test (` + "`UPDATE=1 go test ./cmd/relay -run Settings`" + `) and checked by it.
`

// configured are the structs that configure something, and where they stand.
var configured = []struct{ title, folder, name string }{
	{"outbox.Config", "outbox", "Config"},
	{"relay.Config", "relay", "Config"},
	{"replica.Config", "replica", "Config"},
	{"relay/monitor.Config", "relay/monitor", "Config"},
	{"dashboard.Config", "dashboard", "Config"},
	{"operate/diagnosis.Config", "operate/diagnosis", "Config"},
	{"transport/amqp.Config", "transport/amqp", "Config"},
	{"transport/sqlite.Config", "transport/sqlite", "Config"},
	{"cqrsync.yaml", "manifest", "Manifest"},
	{"cqrsync.yaml: models", "manifest", "Model"},
	{"cqrsync.yaml: relations", "manifest", "Relation"},
}

// The page in docs is what the code has, not what somebody remembers of it.
func TestSettingsAreAllOnTheirPage(t *testing.T) {
	const path = "../../docs/settings.md"
	var page strings.Builder
	page.WriteString(settingsHead)
	page.WriteString("\n## Flags of `relay`\n")
	app := root(io.Discard, io.Discard)
	writeFlags(t, &page, "every command", app)
	writeCommands(t, &page, "", app)
	for _, c := range configured {
		fmt.Fprintf(&page, "\n## %s\n\n| field | meaning |\n|---|---|\n", c.title)
		writeFields(t, &page, c.folder, c.name)
	}
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644)) //nolint:gosec // a page of the repository
		return
	}
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(written), page.String(), "run UPDATE=1 go test ./cmd/relay -run Settings")
}

func writeCommands(t *testing.T, page *strings.Builder, above string, cmd *cli.Command) {
	t.Helper()
	for _, c := range slices.SortedFunc(slices.Values(cmd.Commands), func(a, b *cli.Command) int {
		return strings.Compare(a.Name, b.Name)
	}) {
		name := strings.TrimSpace(above + " " + c.Name)
		writeFlags(t, page, "`"+name+"`: "+c.Usage, c)
		writeCommands(t, page, name, c)
	}
}

func writeFlags(t *testing.T, page *strings.Builder, title string, cmd *cli.Command) {
	t.Helper()
	if len(cmd.Flags) == 0 {
		return
	}
	fmt.Fprintf(page, "\n### %s\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n", title)
	for _, flag := range cmd.Flags {
		names := make([]string, len(flag.Names()))
		for i, name := range flag.Names() {
			dashes := "--"
			if len(name) == 1 {
				dashes = "-"
			}
			names[i] = "`" + dashes + name + "`"
		}
		if f, prepared := flag.(interface{ PreParse() error }); prepared { // then it knows its default
			require.NoError(t, f.PreParse())
		}
		var variables, usage, value string
		if f, documented := flag.(cli.DocGenerationFlag); documented {
			variables, usage = strings.Join(f.GetEnvVars(), ", "), f.GetUsage()
			if f.IsDefaultVisible() && f.TakesValue() {
				if value = strings.Trim(f.GetValue(), `"`); slices.Contains([]string{"0", "0s", "[]"}, value) {
					value = "" // what that means stands in the usage
				}
			}
		}
		if f, required := flag.(cli.RequiredFlag); required && f.IsRequired() {
			value = "required"
		}
		fmt.Fprintf(page, "| %s | %s | %s | %s |\n", strings.Join(names, ", "), variables, value, cell(usage))
	}
}

// link is how Go's comments name other identifiers.
var link = regexp.MustCompile(`\[([A-Z][A-Za-z.]*)\]`)

func cell(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ReplaceAll(link.ReplaceAllString(text, "$1"), "|", `\|`)
}

func writeFields(t *testing.T, page *strings.Builder, folder, name string) {
	t.Helper()
	for _, field := range structOf(t, folder, name).Fields.List {
		for _, ident := range field.Names {
			if !ident.IsExported() {
				continue
			}
			shown := ident.Name
			if field.Tag != nil {
				if tag := regexp.MustCompile(`yaml:"([a-z_]+)`).FindStringSubmatch(field.Tag.Value); tag != nil {
					shown = tag[1]
				}
			}
			require.NotEmpty(t, field.Doc.Text(), "%s.%s has no comment", folder, ident.Name)
			fmt.Fprintf(page, "| `%s` | %s |\n", shown, cell(field.Doc.Text()))
		}
	}
}

// structOf finds a struct in the source of a package.
func structOf(t *testing.T, folder, name string) *ast.StructType {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("../..", folder, "*.go"))
	require.NoError(t, err)
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			general, is := decl.(*ast.GenDecl)
			if !is {
				continue
			}
			for _, spec := range general.Specs {
				if typ, is := spec.(*ast.TypeSpec); is && typ.Name.Name == name {
					if structure, is := typ.Type.(*ast.StructType); is {
						return structure
					}
				}
			}
		}
	}
	require.FailNow(t, "no such struct", "%s.%s", folder, name)
	return nil
}
