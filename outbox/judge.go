package outbox

import (
	"strings"

	"github.com/uptrace/bun/dialect"
)

type savepointStep struct{ verb, name string }

type judgement struct {
	writes    []write
	denied    string
	calls     bool
	savepoint savepointStep
	ends      bool
}

func judge(query string, d dialect.Name) judgement {
	j := judgement{writes: writes(lex(query, d == dialect.MySQL))}
	var words []string
	for t := range lex(query, d == dialect.MySQL) {
		if words = append(words, t.text); len(words) > 5 {
			break
		}
	}
	line := strings.Join(words, " ")
	switch {
	case strings.HasPrefix(line, "SAVEPOINT "), strings.HasPrefix(line, "RELEASE "), strings.HasPrefix(line, "ROLLBACK TO "):
		j.savepoint = savepointStep{words[0], words[len(words)-1]}
	case line == "COMMIT", line == "ROLLBACK":
		j.ends = true
	}
	return j
}
