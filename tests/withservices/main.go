// Command withservices runs a command with a PostgreSQL, a MariaDB, a RabbitMQ and a Redis at hand:
//
//	go run ./tests/withservices go test work
//
// It sets CQRSYNC_TEST_POSTGRES, CQRSYNC_TEST_MARIADB, CQRSYNC_TEST_RABBITMQ and
// CQRSYNC_TEST_REDIS for the command. Those that are set already stay as they are; for the
// others it starts containers (package tests/containers says which images) and removes them
// afterwards, also when it is interrupted. The exit code is the command's.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/containers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:])
	stop()
	if err := errors.Join(err, containers.Terminate()); err != nil {
		fmt.Fprintln(os.Stderr, "withservices:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(ctx context.Context, command []string) (code int, err error) {
	if len(command) == 0 {
		return 2, errors.New("which command? For example: go run ./tests/withservices go test work")
	}
	environment := os.Environ()
	for _, service := range []string{dbtest.Postgres, dbtest.MariaDB, dbtest.RabbitMQ, dbtest.Redis} {
		variable := dbtest.Variable(service)
		if os.Getenv(variable) != "" {
			continue
		}
		address, err := containers.Start(ctx, service)
		if err != nil {
			return 1, fmt.Errorf("%w; or set %s to a running one", err, variable)
		}
		environment = append(environment, variable+"="+address)
	}
	child := exec.CommandContext(ctx, command[0], command[1:]...)
	child.Env = environment
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The child cleans up before the containers go.
	child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
	child.WaitDelay = 30 * time.Second
	err = child.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode(), nil
	}
	return 0, err
}
