package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// columns is the width of a terminal that everybody has.
const columns = 80

// printSentences prints the sentence or, where something is wrong, each trouble and what to do.
func printSentences(cmd *cli.Command, sentence string, troubles []diagnosis.Trouble) {
	out := cmd.Root().Writer
	if len(troubles) == 0 {
		printWrapped(out, "", sentence)
		return
	}
	for i, t := range troubles {
		if i > 0 {
			fmt.Fprintln(out)
		}
		printWrapped(out, "", t.Sentence())
		printWrapped(out, "  ", "Do: "+t.Do)
		printWrapped(out, "  ", "See "+t.Runbook)
	}
}

// printWrapped prints a text in lines that fit a terminal. A word that does not fit has its own.
func printWrapped(out io.Writer, indent, text string) {
	line := indent
	for word := range strings.FieldsSeq(text) {
		long := utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns
		switch {
		case strings.TrimSpace(line) == "":
			line = indent + word
		case long:
			fmt.Fprintln(out, line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	fmt.Fprintln(out, line)
}

// shortestWatch keeps --watch from being a load of its own.
const shortestWatch = time.Second

// watched runs an action again and again where --watch asks for it, until the context ends. One
// that fails is shown, and tried again: whoever watches an outage wants to see its end.
func watched(show cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		every := cmd.Duration("watch")
		if !cmd.IsSet("watch") {
			return show(ctx, cmd)
		}
		if every < shortestWatch {
			return exit.Wrong(of("--watch", fmt.Errorf("%s, want at least %s", every, shortestWatch)))
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if !cmd.Bool("json") {
				fmt.Fprint(cmd.Root().Writer, "\x1b[H\x1b[2J") // home, and all cleared
			}
			err := show(ctx, cmd)
			if exit.IsUsage(err) || errors.Is(err, context.Canceled) {
				return err
			}
			if err != nil {
				fmt.Fprintf(cmd.Root().ErrWriter, "%s: %s\n", cmd.Name, err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// DiagnosisFlags say from when on something is a trouble: of status, and of who watches all the
// time.
func DiagnosisFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{
			Name: "patience", Sources: cli.EnvVars("CQRSYNC_PATIENCE"), Value: 30 * time.Second,
			Usage: "how long a message may wait, and something be away, before it is a trouble",
		},
		&cli.DurationFlag{
			Name: "late", Sources: cli.EnvVars("CQRSYNC_LATE"), Value: time.Minute,
			Usage: "how late a replica may be before it is a trouble",
		},
	}
}

// DiagnosisConfig is what DiagnosisFlags say.
func DiagnosisConfig(cmd *cli.Command) (diagnosis.Config, error) {
	c := diagnosis.Config{Patience: cmd.Duration("patience"), Late: cmd.Duration("late")}
	var errs []error
	for _, flag := range []struct {
		name  string
		value time.Duration
	}{{"patience", c.Patience}, {"late", c.Late}} {
		if flag.value <= 0 {
			errs = append(errs, of(fmt.Sprintf("--%s (or CQRSYNC_%s)", flag.name,
				strings.ToUpper(flag.name)), fmt.Errorf("%s, want a time such as 30s", flag.value)))
		}
	}
	return c, errors.Join(errs...)
}
