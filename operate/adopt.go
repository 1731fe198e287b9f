package operate

import (
	"context"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/outbox"
)

// Adopted is what Adopt found and did.
type Adopted struct {
	// Rows were looked at. Of Taken ones the ledger has now the revision of their column; it knew
	// them not, or only an older one.
	Rows, Taken int64
	// Sent rows were written through cqrsync before they were adopted, so with revisions that
	// replicas take for old. They were given newer ones, and their state is sent again.
	Sent int64
}

// Adopt takes the revisions of a table that a Django master wrote over into the ledger: from its
// columns cqrs_revision and cqrs_updated. So the first write that is captured continues them, and
// replicas take it. Call it when the Django master writes no more, while this service does or
// before it does. Again does no harm, and goes on where it was interrupted.
//
// The two columns are not read otherwise, and no message carries them: what stands there under
// their names is the ledger's.
func Adopt(ctx context.Context, box *outbox.Box, model string, o Options) (Adopted, error) {
	p := o.pace()
	done, err := boxed.Of(box).Adopt(ctx, model, boxed.AdoptOptions{
		PageSize: o.pageSize(1000),
		Reached:  func(rows int) error { return p.add(ctx, rows) },
	})
	return Adopted(done), err
}
