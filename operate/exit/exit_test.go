package exit

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"
)

func TestEveryErrorHasOneCodeAndOneWayToBeSaid(t *testing.T) {
	for want, c := range map[string]struct {
		err  error
		code int
	}{
		"":                        {nil, Done},
		"error: gone\n":           {errors.New("gone"), Failed},
		"error: dump: gone\n":     {With(fmt.Errorf("dump: %w", errors.New("gone"))), Failed},
		"two stay\n":              {Partly(errors.New("two stay")), Differ},
		"error: --rate: -1\n":     {Mistake(errors.New("--rate: -1")), Usage},
		"error: --rate: -1; -2\n": {&Error{Code: Usage, Err: errors.New("--rate: -1; -2")}, Usage},
		"error: these settings cannot be meant so:\n  --db: a\n  b\n  --side: c\n": {
			With(Wrong(errors.New("--db: a\nb"), nil, Wrong(errors.New("--side: c")))), Usage,
		},
		"error: these settings cannot be meant so:\n  --config\n  --db\n": {
			Wrong(Wrong(errors.New("--config")), Wrong(errors.New("--config"), errors.New("--db"))), Usage,
		},
		"error: sync: these settings cannot be meant so:\n  --db\n  --side\n  --to\n": {
			fmt.Errorf("sync: %w", Wrong(errors.Join(Wrong(errors.New("--db")), errors.New("--side")), errors.New("--to"))), Usage,
		},
	} {
		var said bytes.Buffer
		require.Equal(t, c.code, Report(&said, c.err))
		require.Equal(t, want, said.String())
	}
	var said bytes.Buffer
	require.Equal(t, Differ, Report(&said, errors.Join(&Error{Code: Differ}, nil)))
	require.Empty(t, said.String(), "the code says it all")
	require.NoError(t, Wrong(nil, nil))
	require.NoError(t, Mistake(nil))
}

// urfave/cli ends any application with the code.
func TestErrorsAreExitCodersOfUrfave(t *testing.T) {
	var coder cli.ExitCoder
	require.ErrorAs(t, With(Wrong(errors.New("--db"))), &coder)
	require.Equal(t, Usage, coder.ExitCode())
}
