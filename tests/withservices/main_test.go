package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// asCommand makes the test binary be the command.
const asCommand = "CQRSYNC_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// withServices runs the command with no service set; settings are NAME=value.
func withServices(t *testing.T, settings []string, command ...string) (stdout, stderr string, code int) {
	t.Helper()
	binary, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), binary, command...)
	cmd.Env = append(os.Environ(), asCommand+"=1",
		dbtest.Variable(dbtest.Postgres)+"=", dbtest.Variable(dbtest.MariaDB)+"=",
		dbtest.Variable(dbtest.RabbitMQ)+"=", dbtest.Variable(dbtest.Redis)+"=")
	cmd.Env = append(cmd.Env, settings...)
	cmd.Stdin = strings.NewReader("input\n")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestServicesThatAreSetStayAsTheyAre(t *testing.T) {
	set := []string{
		dbtest.Variable(dbtest.Postgres) + "=mine", dbtest.Variable(dbtest.MariaDB) + "=yours",
		dbtest.Variable(dbtest.RabbitMQ) + "=too", dbtest.Variable(dbtest.Redis) + "=there",
	}
	stdout, stderr, code := withServices(t, set, "sh", "-c",
		`read line; echo "$line $CQRSYNC_TEST_POSTGRES $CQRSYNC_TEST_MARIADB $CQRSYNC_TEST_RABBITMQ $CQRSYNC_TEST_REDIS"; echo trouble >&2; exit 7`)
	require.Equal(t, "input mine yours too there\n", stdout)
	require.Equal(t, "trouble\n", stderr)
	require.Equal(t, 7, code)
}

func TestWhatCannotBeStartedIsNamed(t *testing.T) {
	stdout, stderr, code := withServices(t, []string{
		dbtest.Variable(dbtest.Postgres) + "=mine", dbtest.Variable(dbtest.MariaDB) + "=yours",
		dbtest.Variable(dbtest.RabbitMQ) + "_IMAGE=NOT AN IMAGE", // so that it fails with an engine as well
	}, "echo", "never")
	require.Empty(t, stdout)
	require.Contains(t, stderr, "; or set CQRSYNC_TEST_RABBITMQ to a running one")
	require.Equal(t, 1, code)
}

func TestItNeedsACommand(t *testing.T) {
	_, stderr, code := withServices(t, nil)
	require.Contains(t, stderr, "which command?")
	require.Equal(t, 2, code)
}
