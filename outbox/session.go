package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/handover"
)

// session is what one transaction did to registered models. It hangs, as a query hook, on a copy of
// the bun.DB that only this transaction uses: so it sees every statement of the transaction,
// whatever context the caller passes, and no statement of another connection.
type session struct {
	box *Box
	tx  bun.Tx

	mu    sync.Mutex
	dirty map[*model]map[string]*mark
	// a write that only the caller can attribute to rows; none reported yet
	owed map[*model]*RefusedError
	// untouched are models whose related rows were written by a statement that tells no entity: the
	// caller must name one. An entity that a statement of its own happened to mark need not be the
	// one.
	untouched map[*model]*RefusedError
	named     map[*model]bool // by Touch, Saved or Deleted
	// the first refusal: the transaction must not commit, even if the caller ignored it
	refused error
	// a statement ran, and which rows it wrote cannot be known; its rollback ends it
	doubt   error
	lost    error        // after which the database ended the transaction
	running int          // captured statements that have not come back
	sealed  bool         // the flush reads the dirty set: nothing may be added to it
	history []formerMark // what a rollback to a savepoint takes back
	points  []savepoint

	over atomic.Bool // the transaction has ended

	watched map[*model]bool // written, and captured by triggers
	newest  int64           // mark of triggers before the transaction

	deferredRan bool               // deferred triggers
	wrote       bool               // messages were appended
	appended    *handover.Appended // which ones, if a relay is to be handed them
}

func newSession(b *Box) *session {
	return &session{
		box: b, dirty: map[*model]map[string]*mark{}, owed: map[*model]*RefusedError{},
		untouched: map[*model]*RefusedError{}, named: map[*model]bool{},
	}
}

// sessions finds the session by the transaction's private copy of the bun.DB.
var sessions sync.Map // *bun.DB → *session

func sessionOf(db *bun.DB) *session {
	if s, found := sessions.Load(db); found {
		return s.(*session) //nolint:forcetypeassert // nothing else is stored
	}
	return nil
}

type sessionKey struct{ box *Box }

// RunInTx runs fn in a transaction and, if fn returns nil, appends one message for every registered
// entity that the transaction changed, then commits. The rules of bun's RunInTx hold: an error from
// fn or a panic rolls back.
//
// Inside fn write with tx, through bun. What cannot be captured is refused with a [RefusedError];
// after one, the transaction does not commit, also when fn ignores it.
//
// A RunInTx inside fn, with fn's context, is a savepoint of the same transaction: its messages
// leave with the outer commit. A serialization failure or deadlock is returned as the database
// reported it; [Box.RetryInTx] runs the transaction again.
func (b *Box) RunInTx(
	ctx context.Context, opts *sql.TxOptions, fn func(ctx context.Context, tx bun.Tx) error,
) error {
	if outer, nested := ctx.Value(sessionKey{b}).(*session); nested {
		return outer.tx.RunInTx(ctx, opts, func(_ context.Context, tx bun.Tx) error {
			return fn(ctx, tx)
		})
	}
	if b.trace == nil {
		return b.runInTx(ctx, opts, fn)
	}
	ctx, end := b.trace(ctx)
	over := errUnwound // what a panic leaves
	defer func() { end(over) }()
	over = b.runInTx(ctx, opts, fn)
	return over
}

// errUnwound is what became of a transaction whose function panicked.
var errUnwound = errors.New("the transaction was rolled back by a panic")

func (b *Box) runInTx(
	ctx context.Context, opts *sql.TxOptions, fn func(ctx context.Context, tx bun.Tx) error,
) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	s := newSession(b)
	db := b.db.WithQueryHook(s)
	sessions.Store(db, s)
	defer sessions.Delete(db)
	defer s.over.Store(true)

	if b.handover.Load() != nil {
		s.appended = &handover.Appended{}
	}
	var before time.Time
	err := db.RunInTx(ctx, opts, func(ctx context.Context, tx bun.Tx) error {
		s.tx = tx
		if err := s.begin(ctx, tx); err != nil {
			return err
		}
		if err := fn(context.WithValue(ctx, sessionKey{b}, s), tx); err != nil {
			return err
		}
		err := s.flush(ctx, tx)
		before = time.Now()
		return err
	})
	if err == nil && s.wrote {
		b.committed(s.appended.Offer(before))
	}
	return err
}

// begin notes which marks of triggers are not the transaction's own.
func (s *session) begin(ctx context.Context, tx bun.Tx) (err error) {
	if len(s.box.capturedModels()) > 0 {
		s.newest, err = s.box.capture().Newest(context.WithValue(ctx, flushKey{}, s), tx)
	}
	return err
}

// Saved reports that the rows were inserted or updated by statements that bun did not capture. Each
// row is a pointer to a registered model, or a slice of them, and needs only its primary key: the
// flush reads the rest. The first revision of a reported row is 1, not 0, because it may have been
// there before cqrsync.
//
// In a transaction of [Box.RunInTx] the messages are appended before its commit. In any other
// bun.Tx they are appended at once, as a state of that moment: call it last, and once per
// transaction, because each call draws a revision.
func (b *Box) Saved(ctx context.Context, tx bun.Tx, rows ...any) error {
	return b.report(ctx, tx, rows, touched)
}

// Deleted reports that the rows were deleted. It works like [Box.Saved]; whether a row is gone is
// read from the database either way.
func (b *Box) Deleted(ctx context.Context, tx bun.Tx, rows ...any) error {
	return b.report(ctx, tx, rows, removed)
}

var errZeroTx = errors.New("outbox: the transaction is a zero bun.Tx: pass the one you write with")

func (b *Box) report(ctx context.Context, tx bun.Tx, rows []any, how deed) error {
	if tx.Tx == nil {
		return errZeroTx
	}
	// not ready: the transaction may hold SQLite's only connection
	if err := b.registrations(); err != nil {
		return err
	}
	s := sessionOf(tx.NewSelect().DB())
	foreign := s == nil || s.box != b
	if foreign {
		s = newSession(b)
	}
	for _, row := range rows {
		if err := s.reported(row, how); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
	}
	if !foreign {
		return nil
	}
	// Nobody tells when the caller commits; polling finds the messages.
	return s.flush(ctx, tx)
}
