package operate

import (
	"context"
	"fmt"
	"math"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/replica"
)

const (
	// unaskedRows are never many.
	unaskedRows = 100
	// unaskedPart of a model, as 1 in so many, is not wide.
	unaskedPart = 100
)

// TooManyDeletesError says that an operation would delete more than it may unasked. It deleted
// nothing.
type TooManyDeletesError struct {
	Model string
	// Deletes are the rows that would go, of Of that the replica has.
	Deletes, Of int64
	// MasterIsEmpty says that the master has no row of the model at all.
	MasterIsEmpty bool
}

func (e *TooManyDeletesError) Error() string {
	what := fmt.Sprintf("%d of %d rows of %s", e.Deletes, e.Of, e.Model)
	switch {
	case e.MasterIsEmpty:
		what = fmt.Sprintf("%d rows of %s, of which the master has none", e.Deletes, e.Model)
	case e.Deletes >= e.Of:
		what = fmt.Sprintf("all %d rows of %s", e.Deletes, e.Model)
	}
	return fmt.Sprintf("would delete %s: nothing was deleted. Look whether these are the right "+
		"databases and filters, and whether the master has what it should; if it is meant, give "+
		"--max-deletes %d", what, e.Deletes)
}

// Guard fails with a *TooManyDeletesError where a repair of a model is about to delete more rows
// than allowed; where nobody said what is, more than 1 % of the model and more than 100 rows, or
// all of them. Whatever deletes rows asks it before the first. It reads no more rows than it needs
// to tell.
func Guard(ctx context.Context, rep *replica.Replica, model string, deletes, allowed int64) error {
	if deletes <= allowed || deletes <= 0 {
		return nil
	}
	enough := int64(math.MaxInt64) // to name how many there are
	if allowed == 0 {
		enough = deletes*unaskedPart + 1
	}
	has, err := mirrored.Of(rep).Count(ctx, model, enough)
	if err != nil {
		return err
	}
	wide := deletes > unaskedRows && deletes*unaskedPart > has
	if allowed > 0 || wide || deletes >= has {
		return &TooManyDeletesError{Model: model, Deletes: deletes, Of: has}
	}
	return nil
}
