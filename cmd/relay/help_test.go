package main

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/exit"
)

// eachCommand visits all commands, with the words that call them.
func eachCommand(visit func(path []string, cmd *cli.Command)) {
	var below func(path []string, cmd *cli.Command)
	below = func(path []string, cmd *cli.Command) {
		visit(path, cmd)
		for _, c := range cmd.Commands {
			below(append(path[:len(path):len(path)], c.Name), c)
		}
	}
	below(nil, root(nil, nil))
}

// The help of each command fits a terminal, has an example whose flags exist, and says no default
// twice.
func TestTheHelpOfEachCommand(t *testing.T) {
	twice := regexp.MustCompile(`\(default[^)]*\)\s*\(default`)
	flag := regexp.MustCompile(` --([a-z-]+)`)
	eachCommand(func(path []string, cmd *cli.Command) {
		name := strings.Join(path, " ")
		r := invoke(t.Context(), append(path[:len(path):len(path)], "--help")...)
		require.Equal(t, exit.Done, r.code, name)
		for line := range strings.Lines(r.stdout) {
			line = strings.TrimRight(line, "\n")
			if strings.Contains(strings.TrimSpace(line), " ") { // a long word has a line of its own
				require.LessOrEqual(t, utf8.RuneCountInString(line), helpWidth, "%s: %s", name, line)
			}
		}
		require.False(t, twice.MatchString(strings.Join(strings.Fields(r.stdout), " ")), "%s: a default twice", name)
		require.Contains(t, r.stdout, "For example:\n", name)
		example := examples[strings.TrimSpace("relay "+name)]
		known := append(globalFlags(), "help")
		for _, f := range cmd.Flags {
			known = append(known, f.Names()...)
		}
		if name == "" {
			return // it is of a command below
		}
		for _, part := range flag.FindAllStringSubmatch(example, -1) {
			if len(cmd.Commands) == 0 {
				assert.Contains(t, known, part[1], example)
			}
		}
	})
}

func globalFlags() (names []string) {
	for _, f := range root(nil, nil).Flags {
		names = append(names, f.Names()...)
	}
	return names
}

func TestTyposAreEchoedWithASuggestion(t *testing.T) {
	for line, want := range map[string]string{
		"stauts":                     `unknown command "stauts": did you mean status?`,
		"dead-leters":                `did you mean dead-letters?`,
		"frobnicate":                 `unknown command "frobnicate": see --help`,
		"postgres://u:secret@h/x":    `unknown command: see --help`,
		"status --jsn":               `--jsn: it is not defined: did you mean --json?`,
		"run --borker x":             `--borker: it is not defined: did you mean --broker?`,
		"status --xyzzyx":            `--xyzzyx: it is not defined, see --help`,
		"status --watch 1ms --db x:": `--watch: 1ms, want at least 1s`,
	} {
		r := invoke(t.Context(), strings.Fields(line)...)
		require.Equal(t, exit.Usage, r.code, line)
		require.Contains(t, r.stderr, want, line)
		require.NotContains(t, r.stderr+r.stdout, "secret")
	}
}

func TestVersionAndCompletion(t *testing.T) {
	r := invoke(t.Context(), "--version")
	require.Equal(t, exit.Done, r.code)
	require.Regexp(t, `^relay version \S+, go1\.\d+`, r.stdout)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := invoke(t.Context(), "completion", shell)
		require.Equal(t, exit.Done, r.code, r.stderr)
		require.Contains(t, r.stdout, "relay", shell)
	}
}
