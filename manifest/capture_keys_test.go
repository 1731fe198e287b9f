package manifest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

const (
	aUUID  = "5f0c6f5e-0000-4000-8000-0123456789ab"
	digits = "5f0c6f5e0000400080000123456789ab"
)

// keyOfKind is a key, what its columns are, and how messages know it.
type keyOfKind struct {
	name    string
	columns string // of SQL
	key     string // of the file
	values  string // of SQL
	want    string // of messages
	wrong   string // values that are refused when they are written, if any
	on      []dialect.Name
}

var everywhere, pg, maria, lite = []dialect.Name{dialect.PG, dialect.MySQL, dialect.SQLite},
	[]dialect.Name{dialect.PG}, []dialect.Name{dialect.MySQL}, []dialect.Name{dialect.SQLite}

var triggerKeys = []keyOfKind{
	{"integers", "a bigint NOT NULL, b bigint NOT NULL", "[b, a]", "1, 2", "[2,1]", "", everywhere},
	{"texts", "a varchar(20) NOT NULL, b varchar(20) NOT NULL", "[a, b]", `'x"y', 'é'`, `["x\"y","é"]`, "", everywhere},
	{"a text and an integer", "a varchar(20) NOT NULL, b int NOT NULL", "[a, b]", "'x', -7", `["x",-7]`, "", everywhere},
	{"a date", "a date NOT NULL", "a", "'2026-03-01'", "2026-03-01", "", slices.Concat(pg, maria)},
	{"a date and an integer", "a date NOT NULL, b int NOT NULL", "[a, b]", "'2026-03-01', 3", `["2026-03-01",3]`, "", slices.Concat(pg, maria)},
	{"a decimal", "a decimal(10,2) NOT NULL", "a", "1.50", "1.50", "", slices.Concat(pg, maria)},
	{"a decimal and a text", "a decimal(10,2) NOT NULL, b varchar(5) NOT NULL", "[a, b]", "-0.10, ''", `["-0.10",""]`, "", slices.Concat(pg, maria)},
	{"a padded text", "a char(5) NOT NULL", "a", "'ab'", "ab   ", "", pg},
	{"a uuid of the database", "a uuid NOT NULL", "a, types: {a: uuid}", "'" + strings.ToUpper(aUUID) + "'", aUUID, "", slices.Concat(pg, maria)},
	{"a uuid in char(32)", "a char(32) NOT NULL", "a, types: {a: uuid}", "'" + digits + "'", aUUID, "'" + strings.ToUpper(digits) + "'", everywhere},
	{"a uuid in char(36)", "a char(36) NOT NULL", "a, types: {a: uuid}", "'" + aUUID + "'", aUUID, "'" + strings.ToUpper(aUUID) + "'", everywhere},
	{"a uuid in a varchar", "a varchar(40) NOT NULL", "a, types: {a: uuid}", "'" + aUUID + "'", aUUID, "'" + digits + "'", everywhere},
	{"a uuid in binary(16)", "a binary(16) NOT NULL", "a, types: {a: uuid}", "x'" + digits + "'", aUUID, "", maria},
	{"a uuid in a blob", "a blob NOT NULL", "a, types: {a: uuid}", "x'" + digits + "'", aUUID, "x'00'", lite},
	{"a uuid in bytea", "a bytea NOT NULL", "a, types: {a: uuid}", `'\x` + digits + "'", aUUID, `'\x00'`, pg},
	{"a uuid in char(32) and an integer", "a char(32) NOT NULL, b int NOT NULL", "[a, b], types: {a: uuid}",
		"'" + digits + "', 5", `["` + aUUID + `",5]`, "'" + strings.ToUpper(digits) + "', 5", everywhere},
}

// keyColumns are those of the kind in the order of its table.
func (k keyOfKind) keyColumns() string {
	if strings.Contains(k.columns, " b ") {
		return "a, b"
	}
	return "a"
}

// A key is one and the same for triggers, for the sweep in Go, and for Go's own reading.
func TestTriggersSpellKeysAsGoDoes(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		for _, k := range triggerKeys {
			conn := dbtest.Open(t, newURL(t))
			if !slices.Contains(k.on, conn.Dialect().Name()) {
				continue
			}
			t.Run(name+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				tables := []string{
					fmt.Sprintf("CREATE TABLE facts (%s, note varchar(20), PRIMARY KEY (%s))", k.columns, k.keyColumns()),
					fmt.Sprintf("CREATE TABLE parts (id bigint PRIMARY KEY, %s)", strings.ReplaceAll(k.columns, " NOT NULL", "")),
				}
				key, types, _ := strings.Cut(k.key, ", types")
				if types != "" {
					types = ", types" + types
				}
				c := uncapturedWith(t, newURL(t), tables, fmt.Sprintf(
					"models: {fact: {table: facts, key: %s%s, relations: {parts: {table: parts, key: %s, columns: id, many: true}}}}", key, types, key))
				c.install()
				run := func(statement string) {
					c.run(statement)
					_, err := c.box.Sweep(t.Context())
					require.NoError(t, err, statement)
				}
				run("INSERT INTO facts VALUES (" + k.values + ", 'new')")
				run("UPDATE facts SET note = 'old'")
				run("INSERT INTO parts VALUES (1, " + k.values + ")")
				_, err := c.box.Sync(t.Context(), "fact", []json.RawMessage{pkOf(k.want)}, outbox.SyncOptions{})
				require.NoError(t, err)
				run("DELETE FROM facts")
				all := messagesOf(t, c.db)
				var signals []string
				for _, m := range all {
					require.Equal(t, k.want, m.Key)
					signals = append(signals, m.Signal)
				}
				require.Equal(t, []string{"SAVE", "SAVE", "SAVE", "SYNC", "DELETE"}, signals)
				require.Equal(t, all[3].Data, all[2].Data, "what triggers sent, and what Go reads")
				require.Contains(t, all[2].Data, `"parts":[{"id":1}]`)
				if k.wrong != "" {
					require.ErrorContains(t, c.try("INSERT INTO facts VALUES ("+k.wrong+", 'new')"), "uuid")
					require.ErrorContains(t, c.try("INSERT INTO parts VALUES (2, "+k.wrong+")"), "uuid")
				}
				run("INSERT INTO parts (id) VALUES (3)")
				require.Len(t, messagesOf(t, c.db), len(all), "a row that belongs to nobody")
			})
		}
	}
}

// pkOf is a key as JSON.
func pkOf(key string) json.RawMessage {
	if strings.HasPrefix(key, "[") {
		return json.RawMessage(key)
	}
	text, _ := json.Marshal(key) // a text always can be
	return text
}

// Where a database has several texts for a value, nobody could say under which a key is known.
func TestTriggersRefuseKeysWithoutOneSpelling(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		for _, columns := range []string{"a double precision NOT NULL", "a timestamp NOT NULL", "a time NOT NULL"} {
			t.Run(name+"/"+columns, func(t *testing.T) {
				t.Parallel()
				conn := dbtest.Open(t, newURL(t))
				db{conn.DB}.exec(t, "CREATE TABLE facts ("+columns+", PRIMARY KEY (a))")
				m := manifest.Manifest{Models: map[string]manifest.Model{"fact": {Table: "facts"}}}
				box, err := m.Box(t.Context(), conn, outbox.Config{})
				require.NoError(t, err)
				require.NoError(t, box.Migrate(t.Context()))
				triggers, err := m.Capture(t.Context(), conn, outbox.Config{})
				if err == nil {
					err = triggers.Install(t.Context())
				}
				require.ErrorContains(t, err, "integers, texts, uuids")
			})
		}
	}
}
