package manifest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// A column that gets another type under its triggers must not be sent as if it had the former one: the
// text '5' is no number. Writes fail until the triggers are installed again.
func TestAColumnOfAnotherTypeIsNotSentAsTheFormer(t *testing.T) {
	for name, change := range map[string]struct{ before, after, value string }{
		"a number becomes a text":     {"bigint", "text", "'5'"},
		"a number becomes a decimal":  {"integer", "numeric(10,2)", "5"},
		"a number becomes a document": {"integer", "jsonb USING to_jsonb(v)", "'{}'"},
		"a truth becomes a text":      {"boolean", "text", "'true'"},
		"a float becomes a text":      {"double precision", "text", "'5'"},
		"a document becomes a text":   {"jsonb", "text", "'true'"},
		"a json becomes a text":       {"json", "text", "'[1]'"},
		"a date becomes a moment":     {"date", "timestamptz", "'2026-01-02 03:04:05'"},
		"a text becomes a number":     {"text", "integer USING 5", "5"},
		"a text becomes a truth":      {"varchar(9)", "boolean USING true", "true"},
		"a uuid becomes a text":       {"uuid", "text", "'x'"},
		"a list becomes a text":       {"integer[]", "text", "'{1}'"},
		"bytes become a text":         {"bytea", "text", "'x'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedAt(t, dbtest.PostgresURL(t), "CREATE TABLE things (id bigint PRIMARY KEY, v "+change.before+")",
				"models: {thing: {table: things}}")
			c.install()
			c.run("INSERT INTO things VALUES (1, NULL)")
			require.NoError(t, c.try("ALTER TABLE things ALTER v TYPE "+change.after))
			write := "INSERT INTO things VALUES (2, " + change.value + ")"
			require.Error(t, c.try(write))
			require.Len(t, c.all(), 1)
			found, err := c.triggers().Check(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, found)

			c.install()
			require.NoError(t, c.try(write))
			require.Len(t, c.all(), 2)
		})
	}
}
