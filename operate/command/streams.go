package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v3"
)

// input opens --input.
func input(ctx context.Context, cmd *cli.Command) (io.ReadCloser, error) {
	name := cmd.String("input")
	if name == "-" {
		return until(ctx, io.NopCloser(cmd.Root().Reader)), nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--input: %w", err)
	}
	return until(ctx, file), nil
}

// until is a reader that ends with ctx also where a pipe stays open and says nothing: nobody can
// call back a read that waits in the kernel, so it is left behind. It ends with the pipe, or with
// the process.
func until(ctx context.Context, from io.ReadCloser) io.ReadCloser {
	r, w := io.Pipe()
	// always nil, as below
	stop := context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(w, from)
		stop()
		_ = w.CloseWithError(err)
	}()
	return &cut{r, from}
}

// cut closes both ends.
type cut struct {
	*io.PipeReader
	from io.Closer
}

func (c *cut) Close() error { return errors.Join(c.PipeReader.Close(), c.from.Close()) }

// output opens --output, at its end where an earlier run is continued.
func output(cmd *cli.Command, again bool) (io.WriteCloser, error) {
	name := cmd.String("output")
	if name == "-" {
		return keptOpen{cmd.Root().Writer}, nil
	}
	mode := os.O_TRUNC
	if again {
		mode = os.O_APPEND
	}
	//nolint:gosec // a name that the operator chose
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|mode, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	return file, nil
}

type keptOpen struct{ io.Writer }

func (keptOpen) Close() error { return nil }
