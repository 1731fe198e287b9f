package exit

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"
)

// The texts are those of urfave/cli; where a later version has others, this test says so.
func TestWrongFlagsAndVariablesAreToldToAnOperator(t *testing.T) {
	for _, c := range []struct {
		args []string
		poll string // CQRSYNC_POLL
		want string
	}{
		{args: []string{"--poll", "x"}, want: `--poll: "x", want a time such as 30s, 5m or 72h`},
		{args: []string{"--poll", "30"}, want: `--poll: "30", want a time such as 30s, 5m or 72h`},
		{poll: "soon", want: `--poll (or CQRSYNC_POLL): "soon", want a time such as 30s, 5m or 72h`},
		{args: []string{"--batch", "many"}, want: `--batch: "many", want a whole number`},
		{args: []string{"--id", "1", "--id", "x"}, want: `--id: "x", want a whole number`},
		{args: []string{"--all=perhaps"}, want: `--all: "perhaps", want true or false`},
		{args: []string{"--nonsense"}, want: "--nonsense: it is not defined, see --help"},
		{args: []string{"--poll"}, want: "--poll: it needs an argument"},
		{args: []string{"--batch", "1"}, want: "--model: not set, see --help"},
	} {
		t.Setenv("CQRSYNC_POLL", c.poll)
		app := &cli.Command{
			Name: "relay", Writer: io.Discard, ErrWriter: io.Discard,
			Flags: []cli.Flag{
				&cli.DurationFlag{Name: "poll", Sources: cli.EnvVars("CQRSYNC_POLL"), Value: time.Second},
				&cli.IntFlag{Name: "batch"}, &cli.Int64SliceFlag{Name: "id"}, &cli.BoolFlag{Name: "all"},
				&cli.StringFlag{Name: "model", Required: true},
			},
			OnUsageError:   func(_ context.Context, _ *cli.Command, err error, _ bool) error { return err },
			ExitErrHandler: func(context.Context, *cli.Command, error) {},
			Action:         func(context.Context, *cli.Command) error { return nil },
		}
		err := Flags(app.Run(t.Context(), append([]string{"relay"}, c.args...)))
		require.EqualError(t, err, "these settings cannot be meant so:\n  "+c.want)
		require.Equal(t, Usage, Code(err))
	}
	gone := errors.New("gone")
	require.Equal(t, gone, Flags(gone))
	require.NoError(t, Flags(nil))
}
