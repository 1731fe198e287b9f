package command

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"
)

func TestClearingIsConfirmedOnTheTerminal(t *testing.T) {
	opened := terminal
	t.Cleanup(func() { terminal = opened })
	for answer, confirmed := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false} {
		terminal = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(answer)), nil }
		var asked bytes.Buffer
		require.Equal(t, confirmed, ask(t.Context(), &asked, "Empty?") == nil, "%q", answer)
		require.Contains(t, asked.String(), "[y/N]")
	}
	terminal = func() (io.ReadCloser, error) { return nil, errors.New("no terminal") }
	require.ErrorContains(t, ask(t.Context(), io.Discard, "Empty?"), "give --yes")
}

func TestCommandsOfASideThatIsNotThereAreLeftOut(t *testing.T) {
	require.Empty(t, Commands(Source{}))
}

func TestExitErrorsEndAnyApplication(t *testing.T) {
	var coder cli.ExitCoder
	require.ErrorAs(t, differing(true), &coder)
	require.Equal(t, ExitDiffer, coder.ExitCode())
	require.Empty(t, coder.Error())
	require.NoError(t, differing(false))
}
