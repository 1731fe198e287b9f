package answers_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	page   = "../../docs/types.md"
	begins = "<!-- From here on the page is made by tests/answers: UPDATE=1 go test ./tests/answers -run Page -->\n"
)

// TestThePageSaysWhatTheTestsAsk holds docs/types.md against the answers, or writes it with UPDATE=1.
func TestThePageSaysWhatTheTestsAsk(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	introduction, tables, found := strings.Cut(string(text), begins)
	require.True(t, found, "the page has lost its mark")
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(page, []byte(introduction+begins+document()), 0o644)) //nolint:gosec // a document
		return
	}
	require.Equal(t, document(), tables, "run UPDATE=1 go test ./tests/answers -run Page")
}

func document() string {
	var b strings.Builder
	names := map[string]string{"postgres": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
	for _, kind := range kinds {
		fmt.Fprintf(&b, "\n## From %s\n\n| type | travels as | PostgreSQL | MariaDB | SQLite |\n|---|---|---|---|---|\n", names[kind])
		for _, c := range answers[kind] {
			name := "`" + c.ddl + "`"
			if c.also != "" {
				name += ", " + c.also
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, c.wire,
				c.on["postgres"].answer(), c.on["mariadb"].answer(), c.on["sqlite"].answer())
		}
		fmt.Fprintf(&b, "\nNot known, and refused by name:")
		for i, ddl := range unknown[kind] {
			if ddl == "" {
				ddl = "(none)"
			}
			fmt.Fprintf(&b, "%s `%s`", map[bool]string{true: "", false: ","}[i == 0], ddl)
		}
		b.WriteString(", and all that is not in the table.\n")
	}
	return b.String()
}

func (k kept) answer() string {
	text := "`" + k.ddl + "`"
	switch {
	case k.refused != "":
		text += " refuses it: " + k.refused
	case k.prints != nil:
		text += ", printed `" + strings.ReplaceAll(k.prints[0], "|", "\\|") + "`"
	}
	if k.note != "" {
		text += " (" + k.note + ")"
	}
	return text
}
