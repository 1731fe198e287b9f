package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/exit"
)

// helpWidth is the width of a terminal that everybody has.
const helpWidth = 80

// The library keeps how help is printed for the whole program.
func init() { //nolint:gochecknoinits // it has no other place for it
	cli.VersionFlag = &cli.BoolFlag{Name: "version", Usage: "print the version", Local: true}
	cli.HelpPrinter = func(out io.Writer, template string, data any) {
		var text strings.Builder
		cli.HelpPrinterCustom(&text, template, data, nil)
		for line := range strings.Lines(text.String()) {
			printFolded(out, strings.TrimRight(line, " \n"))
		}
	}
}

// column is where the text of a line begins that has something before it: a flag, a command.
var column = regexp.MustCompile(`^ *\S.*?  +(\S)`)

// printFolded prints a line in as many as fit a terminal, all with the text at its column.
func printFolded(out io.Writer, line string) {
	indent := len(line) - len(strings.TrimLeft(line, " "))
	if at := column.FindStringSubmatchIndex(line); at != nil && at[2] < helpWidth*5/8 {
		indent = at[2]
	}
	for utf8.RuneCountInString(line) > helpWidth {
		cut := -1
		for i, r := range line {
			if utf8.RuneCountInString(line[:i]) > helpWidth && cut >= 0 {
				break
			}
			if r == ' ' && i > indent {
				cut = i
			}
		}
		if cut < 0 {
			break
		}
		fmt.Fprintln(out, strings.TrimRight(line[:cut], " "))
		line = strings.Repeat(" ", indent) + strings.TrimLeft(line[cut:], " ")
	}
	fmt.Fprintln(out, line)
}

// version is that of the module, or of the sources it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	said := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (said == "" || said == "(devel)") {
			said = s.Value
		}
	}
	if said == "" {
		said = "(devel)"
	}
	return said + ", " + info.GoVersion
}

// word is what may be repeated of a command line: anything else may be a URL with a password.
var word = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,39}$`)

// unknown says that there is no such command, and which one may be meant.
func unknown(cmd *cli.Command) error {
	given := cmd.Args().First()
	if !word.MatchString(given) {
		return exit.Wrong(errors.New("unknown command: see --help"))
	}
	text := fmt.Sprintf("unknown command %q: ", given)
	if meant := nearest(given, commandNames(cmd)); meant != "" {
		return exit.Wrong(fmt.Errorf("%sdid you mean %s? See --help", text, meant))
	}
	return exit.Wrong(errors.New(text + "see --help"))
}

func commandNames(cmd *cli.Command) (names []string) {
	for _, c := range cmd.VisibleCommands() {
		names = append(names, c.Names()...)
	}
	return names
}

// flagNames are those of a command and of all above it.
func flagNames(cmd *cli.Command) (names []string) {
	for _, c := range cmd.Lineage() {
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				if len(name) > 1 {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

var undefined = regexp.MustCompile(`^flag provided but not defined: -+([A-Za-z][A-Za-z0-9-]*)`)

// misspelt says of an unknown flag which one may be meant. Any other error it returns as it is.
func misspelt(cmd *cli.Command, err error) error {
	part := undefined.FindStringSubmatch(err.Error())
	if part == nil {
		return err
	}
	meant := nearest(part[1], flagNames(cmd))
	if meant == "" {
		return err
	}
	return exit.Wrong(fmt.Errorf("--%s: it is not defined: did you mean --%s? See --help",
		part[1], meant))
}

// nearest is the name that a few changes make of what was given, "" if none is near.
func nearest(given string, names []string) string {
	best, nearest := len(given)/3+1, ""
	for _, name := range names {
		if d := distance(strings.ToLower(given), name); d < best {
			best, nearest = d, name
		}
	}
	return nearest
}

// distance is how many letters are to be added, left out or replaced (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := before
			if a[i] != b[j] {
				replaced++
			}
			before = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// hideDefaults leaves out the default of flags whose usage says it in words: the zero value that
// the library would print is none.
func hideDefaults(cmd *cli.Command) {
	for _, flag := range cmd.Flags {
		told, is := flag.(cli.DocGenerationFlag)
		if !is || !strings.Contains(told.GetUsage(), "(default") {
			continue
		}
		switch f := flag.(type) {
		case *cli.StringFlag:
			f.HideDefault = true
		case *cli.BoolFlag:
			f.HideDefault = true
		case *cli.IntFlag:
			f.HideDefault = true
		case *cli.DurationFlag:
			f.HideDefault = true
		case *cli.StringSliceFlag:
			f.HideDefault = true
		}
	}
	for _, below := range cmd.Commands {
		hideDefaults(below)
	}
}
