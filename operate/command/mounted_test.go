package command_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/admin/commands"
	"github.com/cqrsync/cqrsync/operate/command"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// A service has the commands on cqrsync's own tables in its own binary.
func TestCommandsOnCqrsyncsTablesAreMountedInAnyApplication(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		invoke := func(args ...string) (code int, stdout, stderr string) {
			var out, errs bytes.Buffer
			app := &cli.Command{
				Name: "orders", Writer: &out, ErrWriter: &errs,
				ExitErrHandler: func(context.Context, *cli.Command, error) {},
				Commands: command.Commands(command.Source{Admin: commands.Source{
					Open: func(context.Context, bool) (*admin.Tables, error) { return admin.Open(db, admin.Config{}) },
				}}),
			}
			err := app.Run(t.Context(), append([]string{"orders"}, args...))
			return exit.Report(&errs, err), out.String(), errs.String()
		}
		code, stdout, stderr := invoke("migrate", "--side", "all")
		require.Equal(t, exit.Done, code, stderr)
		require.Contains(t, stdout, "replica: applied ")
		_, stdout, _ = invoke("status")
		require.Contains(t, stdout, "unsent messages     0\n")
		_, stdout, _ = invoke("dead-letters", "list", "--side", "replica")
		require.Equal(t, "no dead letters\n", stdout)
		code, _, stderr = invoke("dead-letters", "retry", "--side", "replica", "--all")
		require.Equal(t, exit.Usage, code)
		require.Contains(t, stderr, "does not have the replica's models")
		code, _, stderr = invoke("migrate", "--print")
		require.Equal(t, exit.Usage, code)
		require.Contains(t, stderr, "not defined")
	})
}
