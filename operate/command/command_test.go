package command

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestClearingIsConfirmedOnTheTerminal(t *testing.T) {
	opened := terminal
	t.Cleanup(func() { terminal = opened })
	tooMany := &operate.TooManyDeletesError{Model: "order", Deletes: 812, Of: 812}
	for answer, confirmed := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false} {
		terminal = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(answer)), nil }
		var asked bytes.Buffer
		require.Equal(t, confirmed, ask(t.Context(), &asked, tooMany) == nil, "%q", answer)
		require.Contains(t, asked.String(), "It has 812 rows of order; those that the dump lacks are gone then. [y/N]")
	}
	terminal = func() (io.ReadCloser, error) { return nil, errors.New("no terminal") }
	require.ErrorIs(t, ask(t.Context(), io.Discard, tooMany), tooMany)
	require.ErrorContains(t, tooMany, "give --max-deletes 812")
}

func TestCommandsOfASideThatIsNotThereAreLeftOut(t *testing.T) {
	require.Empty(t, Commands(Source{}))
}

func TestExitErrorsEndAnyApplication(t *testing.T) {
	var coder cli.ExitCoder
	require.ErrorAs(t, differing(true), &coder)
	require.Equal(t, exit.Differ, coder.ExitCode())
	require.Empty(t, coder.Error())
	require.NoError(t, differing(false))
}
