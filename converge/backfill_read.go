package converge

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/cqrsync/cqrsync/internal/boxed"
)

// readPage is a page of rows with those of them that could not be read.
type readPage struct {
	rows []boxed.Instance
	bad  []badRow
	err  error
}

// badRow is a row that cannot be sent, and why.
type badRow struct {
	pk  json.RawMessage
	err error
}

// pages reads the rows of a backfill, one page ahead of who takes them: so the database and the
// broker work at the same time. What takes them must end with stop, which waits for the reading.
func (f *filling) pages(ctx context.Context) (pages <-chan readPage, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	read := make(chan readPage)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(read)
		var bad []badRow
		selection := boxed.Selection{
			Where: f.where, After: f.After, PageSize: fillPage,
			Bad: func(pk json.RawMessage, err error) { bad = append(bad, badRow{pk, err}) },
		}
		for rows, err := range f.a.box.Instances(ctx, f.Model, selection) {
			select {
			case read <- readPage{rows, bad, err}:
			case <-ctx.Done():
				return
			}
			if bad = nil; err != nil {
				return
			}
		}
		if len(bad) > 0 {
			select {
			case read <- readPage{bad: bad}:
			case <-ctx.Done():
			}
		}
	})
	return read, func() {
		cancel()
		reading.Wait()
	}
}
