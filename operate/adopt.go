package operate

import (
	"context"

	"github.com/cqrsync/cqrsync/outbox"
)

// Adopt takes the revisions of a table that a Django master wrote over into the ledger; see
// outbox.Box.Adopt. It holds the rate, and reports its progress.
func Adopt(ctx context.Context, box *outbox.Box, model string, o Options) (outbox.Adopted, error) {
	p := o.pace()
	return box.Adopt(ctx, model, outbox.AdoptOptions{
		PageSize: o.pageSize(1000),
		Reached:  func(rows int) error { return p.add(ctx, rows) },
	})
}
