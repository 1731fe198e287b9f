package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// transcript is a README whose console blocks and tables of requests a test runs.
type transcript struct {
	lines []string
	steps []step
}

// step is one command and what it answers: the lines after it, or the cells of its row.
type step struct {
	at      int // the command's line
	end     int // behind the last line of the answer
	command string
	status  string // of a table's row; in a block an answer has none
	answer  string
}

// unwritten is an answer that is not written yet: go test ./orders -run TestTheReadme -args -write
// fills it in.
const unwritten = "?"

var row = regexp.MustCompile("^\\| `(curl .*)` \\| (\\S+) \\| (.*) \\|$")

func readTranscript(t *testing.T, file string) *transcript {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	r := &transcript{lines: strings.Split(string(text), "\n")}
	inside := false
	for i, line := range r.lines {
		switch cells := row.FindStringSubmatch(line); {
		case cells != nil:
			r.steps = append(r.steps, step{
				at: i, end: i + 1, command: cells[1], status: cells[2], answer: strings.Trim(cells[3], "`"),
			})
		case line == "```console":
			inside = true
		case line == "```":
			inside = false
		case inside && (strings.HasPrefix(line, "$ ") || line == "^C"):
			r.steps = append(r.steps, step{at: i, end: i + 1, command: strings.TrimPrefix(line, "$ ")})
		case inside:
			last := &r.steps[len(r.steps)-1]
			last.answer += strings.TrimLeft(line, " ") // an answer is wrapped where it may be
			last.end = i + 1
		}
	}
	return r
}

// matches says whether an answer is what stands in the README, where … is anything.
func (s step) matches(status, answer string) bool {
	parts := strings.Split(s.answer, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	want := regexp.MustCompile("^(?s)" + strings.Join(parts, ".*?") + "$")
	return (s.status == "" || s.status == status) && want.MatchString(strings.TrimSpace(answer))
}

func (s step) isOpen() bool { return s.answer == unwritten || s.status == unwritten }

var drawn = regexp.MustCompile(`(msg|whsec)_[A-Za-z0-9+/=]+`)

// write replaces the open answers by those that were given, the last first.
func (r *transcript) write(t *testing.T, file string, given map[int][2]string) {
	for i := len(r.steps) - 1; i >= 0; i-- {
		s := r.steps[i]
		answer, is := given[i]
		if !is {
			continue
		}
		text := drawn.ReplaceAllString(strings.TrimSpace(answer[1]), "${1}_…")
		lines := wrap(text)
		if s.status != "" {
			lines = []string{fmt.Sprintf("| `%s` | %s | `%s` |", s.command, answer[0], text)}
			s.at--
		}
		r.lines = append(r.lines[:s.at+1], append(lines, r.lines[s.end:]...)...)
	}
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(r.lines, "\n")), 0o600))
}

// wrap breaks JSON behind commas.
func wrap(text string) (lines []string) {
	const width = 118
	line := ""
	for part := range strings.SplitAfterSeq(text, ",") {
		if len(line)+len(part) > width {
			lines, line = append(lines, line), "  "
		}
		line += part
	}
	if line = strings.TrimRight(line, " "); line != "" {
		lines = append(lines, line)
	}
	return lines
}

// words splits a command as a shell does, as far as the README needs it.
func words(t *testing.T, command string) (words []string) {
	const zeros = `@<(printf %01200000d)`
	command = strings.ReplaceAll(command, zeros, strings.Repeat("0", 1_200_000))
	word, quote, begun := strings.Builder{}, rune(0), false
	for _, c := range command + " " {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, begun = c, true
		case quote == 0 && c == ' ':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			require.False(t, quote != '\'' && strings.ContainsRune(`$\&|;<>*?~!(){}`+"`", c), "not quoted: %q in %s", c, command)
			word.WriteRune(c)
			begun = true
		}
	}
	require.Zero(t, quote, "a quote is open: %s", command)
	return words
}

func TestAnswersAreHeldAgainstTheReadme(t *testing.T) {
	t.Parallel()
	require.True(t, step{answer: `{"a":…,"b":[…]}`}.matches("200", "{\"a\":1,\"b\":[2,3]}\n"))
	require.False(t, step{answer: `{"a":…,"b":[…]}`}.matches("200", `{"a":1,"c":[2,3]}`))
	require.False(t, step{answer: `{}`, status: "404"}.matches("200", `{}`))
	require.False(t, step{}.matches("200", `{}`), "no answer is an answer")
	require.Equal(t, []string{"curl", "-d", `{"a": 1}`, "", "x?a=b"}, words(t, `curl -d '{"a": 1}' '' 'x?a=b'`))
}
