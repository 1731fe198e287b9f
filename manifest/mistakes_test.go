package manifest_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/manifest"
)

// Whoever writes a cqrsync.yaml need not know Go.
func TestMistakesInTheFileAreToldInItsWords(t *testing.T) {
	const keys = "table, key, columns, map, types" // and further ones
	for text, want := range map[string]string{
		"models:\n  order:\n    tabel: orders":    `line 3: unknown key "tabel", want one of ` + keys,
		"modles: {}":                              `line 1: unknown key "modles", want one of queue, backfill, models`,
		"models:\n  order: orders":                `line 2: "orders", want what the model is, for example "table: orders", below it`,
		"models: [order]":                         `line 1: a list, want models by their CQRS ids, for example "{order: {table: orders}}"`,
		"models: order":                           `line 1: "order", want models by their CQRS ids, for example "{order: {table: orders}}"`,
		"models: {o: {table: t, touch: [lines]}}": `line 1: a list, want tables with the columns that hold the key, for example "{lines: order_id}"`,
		"- order":                                 "line 1: a list, want the keys queue, backfill, models",
		"models:\n  o:\n    table: t\n    nan_as_null: maybe":            `line 4: "maybe", want true or false`,
		"models:\n  o:\n    table: t\n    map: [a]":                      `line 4: a list, want columns with a value each, for example "{state: status}"`,
		"models:\n  o:\n    table: t\n    constants: uk":                 `line 4: "uk", want columns with a value each, for example "{state: status}"`,
		"models:\n  o:\n    table: [t]":                                  "line 3: a list, want one word",
		"models:\n  o:\n    table: t\n    key: {id: 1}":                  `line 4: keys with values, want a name or a list of names, for example "[id, status]"`,
		"models:\n\torder: x":                                            "line 2: found character that cannot start any token: indent with spaces, not with tabs",
		"models:\n  o: {table: t}\n  o: {table: u}":                      `line 3: mapping key "o" already defined at line 2`,
		"models:\n  o:\n    tabel: t\n    keys: id\n    columns: 5\n":    "line 3: unknown key \"tabel\", want one of " + keys + "\nline 4: unknown key \"keys\", want one of " + keys,
		"queue: [a]\nmodels:\n  o: {table: t, nan_as_null: [1], map: 5}": "line 1: a list, want one word\nline 3: a list, want true or false\nline 3: \"5\", want columns with a value each, for example \"{state: status}\"",
		"models:\n  o: {table: t, key: [id, id]}":                        "models: o: key: id stands there twice",
	} {
		_, err := manifest.Parse([]byte(text))
		require.Error(t, err, text)
		said := regexp.MustCompile(`(`+keys+`)[a-z_, ]*`).ReplaceAllString(err.Error(), "$1")
		require.Equal(t, want, said, text)
	}
}
