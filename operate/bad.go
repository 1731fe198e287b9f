package operate

import (
	"encoding/json"
	"fmt"
)

// BadRowsError says that an operation came to its end and left rows out, because they cannot be
// sent. The first is the reason for that of one of them.
type BadRowsError struct {
	Rows  int64
	First error
}

func (e *BadRowsError) Error() string {
	return fmt.Sprintf("%d rows cannot be sent, the others were dealt with; the first: %v",
		e.Rows, e.First)
}

// Unwrap returns First.
func (e *BadRowsError) Unwrap() error { return e.First }

// badRows counts the rows that are left out.
type badRows struct {
	tell  func(pk json.RawMessage, err error)
	count int64
	first error
}

func (o Options) badRows() *badRows { return &badRows{tell: o.BadRow} }

func (b *badRows) add(pk json.RawMessage, err error) {
	if b.count++; b.count == 1 {
		b.first = fmt.Errorf("key %s: %w", pk, err)
	}
	if b.tell != nil {
		b.tell(pk, err)
	}
}

// err is a *BadRowsError, or nil.
func (b *badRows) err() error {
	if b.count == 0 {
		return nil
	}
	return &BadRowsError{b.count, b.first}
}
