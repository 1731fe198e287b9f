package envelope

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPeekTellsWhatCanBeReadOfABrokenMessage(t *testing.T) {
	revision := func(n int64) *int64 { return &n }
	whole := Peeked{"order", "7", revision(3), nil, true}
	cut := whole
	cut.Object = false
	tests := map[string]struct {
		body string
		want Peeked
	}{
		"nothing is wrong":       {minimal, whole},
		"an unknown signal":      {strings.Replace(minimal, "SAVE", "MOVE", 1), whole},
		"retries are no number":  {with("retries", `"many"`), whole},
		"expires is no time":     {with("expires", `"tomorrow"`), whole},
		"meta is no object":      {with("meta", "7"), whole},
		"retries":                {with("retries", "5"), Peeked{"order", "7", revision(3), revision(5), true}},
		"no revision":            {strings.Replace(minimal, "cqrs_revision", "version", 1), Peeked{"order", "7", nil, nil, true}},
		"a revision of text":     {strings.Replace(minimal, ":3}", `:"3"}`, 1), Peeked{"order", "7", nil, nil, true}},
		"no instance_data":       {`{"cqrs_id":"order","instance_pk":7}`, Peeked{"order", "7", nil, nil, true}},
		"data that is no object": {with("instance_data", "[]"), Peeked{"order", "7", nil, nil, true}},
		"a model that is none":   {strings.Replace(minimal, "order", "or der", 1), Peeked{"", "7", revision(3), nil, true}},
		"a key that is none":     {strings.Replace(minimal, `pk":7`, `pk":{}`, 1), Peeked{"order", "", revision(3), nil, true}},
		"a composite key":        {strings.Replace(minimal, `pk":7`, `pk":[7, "a"]`, 1), Peeked{"order", `[7,"a"]`, revision(3), nil, true}},
		"NaN":                    {with("meta", "NaN"), whole},
		"empty":                  {"", Peeked{}},
		"text":                   {"hello", Peeked{}},
		"a list":                 {"[" + minimal + "]", Peeked{}},
		"a byte order mark":      {"\ufeff" + minimal, cut},
		"something behind it":    {minimal + "x", cut},
		"not UTF-8":              {with("meta", "{\"a\":\"\xff\"}"), cut},
		"a key not UTF-8":        {strings.Replace(minimal, `pk":7`, "pk\":\"\xff\"", 1), Peeked{"order", "", revision(3), nil, false}},
		"cut off at the end":     {strings.TrimSuffix(minimal, "}"), Peeked{"order", "", revision(3), nil, false}},
		"cut off behind the key": {minimal[:len(minimal)-1] + ",", cut},
		"cut off in the data":    {`{"cqrs_id":"order","instance_pk":7,"instance_data":{"cqrs_revision":3,"te`, cut},
		"cut off in a number":    {`{"cqrs_id":"order","instance_pk":7,"instance_data":{"cqrs_revision":3`, Peeked{"order", "7", nil, nil, false}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, Peek([]byte(test.body), nil))
		})
	}
}

func TestPeekBelievesTheMetadataAboutTheKey(t *testing.T) {
	metadata := map[string]string{"cqrs_key": "007", "cqrs_revision": "4"}
	three, four := int64(3), int64(4)
	require.Equal(t, Peeked{"order", "007", &three, nil, true}, Peek([]byte(minimal), metadata))
	require.Equal(t, Peeked{"", "007", &four, nil, false}, Peek([]byte("\x00"), metadata))
	require.Equal(t, Peeked{}, Peek(nil, map[string]string{"cqrs_revision": "four"}))
}
