package commands

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"
)

func stdout(cmd *cli.Command) io.Writer { return cmd.Root().Writer }

func stderr(cmd *cli.Command) io.Writer { return cmd.Root().ErrWriter }

func printJSON(cmd *cli.Command, object any) error {
	return json.NewEncoder(stdout(cmd)).Encode(object)
}

// newTable aligns cells that are parted by tabs, when it is flushed.
func newTable(cmd *cli.Command) *tabwriter.Writer {
	return tabwriter.NewWriter(stdout(cmd), 0, 0, 2, ' ', 0)
}

// oneLine makes any text one cell of a table on a terminal: what a key or an error holds came from
// outside.
func oneLine(text string) string {
	const limit = 100
	quoted := printable(text)
	if runes := []rune(quoted); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return quoted
}

// printable is any text in one line, quoted where it has to be.
func printable(text string) string {
	if quoted := fmt.Sprintf("%q", text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

// duration is a time as people write it: 2160h in place of 2160h0m0s.
func duration(d time.Duration) string {
	text := d.String()
	if short, whole := strings.CutSuffix(text, "m0s"); whole {
		text = short + "m"
	}
	if short, whole := strings.CutSuffix(text, "h0m"); whole {
		text = short + "h"
	}
	return text
}

// count is how a number of rows is printed.
func count(n int64, estimated bool) string {
	if estimated {
		return fmt.Sprintf("about %d (estimated)", n)
	}
	return fmt.Sprint(n)
}

// known is a number that may not be known.
func known(n *int64) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprint(*n)
}
