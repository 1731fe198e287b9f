package envelope

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAKeyIsTheTextOfItsPrimaryKey(t *testing.T) {
	for pk, want := range map[string]string{
		`1`: "1", `-7`: "-7", `9007199254740993`: "9007199254740993", `1.50`: "1.50", `true`: "true", ` 5 `: "5",
		`"n1"`: "n1", `" "`: " ", `"\u0416 \/ \ud83d\ude00"`: "Ж / 😀", `"[1]"`: "[1]",
		`"0419d87b-d477-44e4-82c4-310f56faa3c7"`: "0419d87b-d477-44e4-82c4-310f56faa3c7",
		`[1,2]`:                                  `[1,2]`,
		`[ 1 , "a b" ]`:                          `[1,"a b"]`,
		`["\u0041\/","","é\"\\\n"]`:              `["A/","","é\"\\\n"]`,
		`[true,1.0]`:                             `[true,1.0]`,
	} {
		key, err := KeyOf(json.RawMessage(pk))
		require.NoError(t, err, pk)
		require.Equal(t, want, key)
	}
}

func TestOneCompositeKeyHasOneSpelling(t *testing.T) {
	want, err := KeyOf(json.RawMessage(`["Ж/",1]`))
	require.NoError(t, err)
	got, err := KeyOf(json.RawMessage(` ["\u0416\/" , 1]`))
	require.NoError(t, err)
	require.Equal(t, want, got)
	again, err := KeyOf(json.RawMessage(got))
	require.NoError(t, err)
	require.Equal(t, want, again, "a key is its own key")
}

func TestWhatIsNoKeyIsRefused(t *testing.T) {
	for pk, want := range map[string]string{
		``:           "missing",
		` `:          "not JSON",
		`1 2`:        "not JSON",
		`abc`:        "not JSON",
		`null`:       "want a string, a number or a boolean, got null",
		`NaN`:        "got NaN",
		`-Infinity`:  "got -Infinity",
		`{}`:         "got an object",
		`""`:         "got an empty string",
		`"a\u0000"`:  "NUL",
		`[]`:         "got an empty array",
		`[null]`:     "composite key: want a string, a number or a boolean, got null",
		`[1,[2]]`:    "got an array",
		`[{"a":1}]`:  "got an object",
		`[1,`:        "not JSON",
		`[Infinity]`: "got Infinity",
	} {
		key, err := KeyOf(json.RawMessage(pk))
		require.ErrorContains(t, err, want, pk)
		require.Empty(t, key)
	}
}

func TestACQRSIDIsOneWordOfARoutingKey(t *testing.T) {
	for _, id := range []string{"order", "AUTH_USER", "a-1", "_", strings.Repeat("x", 200)} {
		require.NoError(t, CheckModel(id))
	}
	for id, want := range map[string]string{
		"": "empty", "a.b": "use letters", "a b": "use letters", "é": "use letters", "a#": "use letters", "a*": "use letters",
		"@[`{/:": "use letters", "a\x00": "use letters", strings.Repeat("x", 201): "has 201 bytes, at most 200",
	} {
		require.ErrorContains(t, CheckModel(id), want, id)
	}
}
