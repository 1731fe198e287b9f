package outgoing

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Numbering says which lanes there are: Count of them, from First on. A change of their number
// takes new numbers, so that a row says in which numbering it was written.
type Numbering struct{ First, Count int }

// Lane returns the lane of a key: the unit of order and of relay ownership. Changing the function
// would send a key's messages through two lanes at once, out of order. The hash is one that every
// database can compute: internal/capture has it in SQL, for triggers.
func (n Numbering) Lane(model, key string) int {
	// No secret hangs on it.
	sum := md5.Sum([]byte(model + ":" + key))
	return n.First + int(binary.BigEndian.Uint32(sum[:])%uint32(n.Count))
}

// Lanes is the numbering of an outbox, as those see it who append to it. It is safe for concurrent
// use.
type Lanes struct {
	db      *db.Database
	dialect dialect
	cached  atomic.Pointer[Numbering]
}

// NewLanes reads nothing yet.
func NewLanes(d *db.Database) *Lanes {
	return &Lanes{db: d, dialect: db.Choose[dialect](d, postgres{}, mariadb{}, sqlite{})}
}

// Numbering is read once; whoever writes with one that has changed since is refused, and reads it
// again (Refused).
func (l *Lanes) Numbering(ctx context.Context, tx bun.IDB) (Numbering, error) {
	if n := l.cached.Load(); n != nil {
		return *n, nil
	}
	n, err := l.Read(ctx, tx)
	if err == nil {
		l.cached.Store(&n)
	}
	return n, err
}

// Read reads the numbering as it is now.
func (l *Lanes) Read(ctx context.Context, tx bun.IDB) (n Numbering, err error) {
	err = tx.QueryRowContext(ctx, "SELECT coalesce(min(lane), 0), count(*) FROM ?",
		l.db.Table("outbox_lanes")).
		Scan(&n.First, &n.Count)
	if err != nil {
		return n, fmt.Errorf("count lanes: %w", err)
	}
	if n.Count == 0 {
		return n, errors.New("outbox_lanes is empty: run relay migrate")
	}
	return n, nil
}

// Forget has the numbering read again: there may be more lanes, or fewer, than there were.
func (l *Lanes) Forget() { l.cached.Store(nil) }

// Value is what stands in an INSERT into outbox_messages for the lane: itself, or null where there
// is no such lane.
func (l *Lanes) Value() string {
	table := l.dialect.laneNumbers()
	if table == "" {
		return "?"
	}
	return "(SELECT lane FROM " + string(l.db.Table(table)) + " WHERE lane = ?" +
		l.dialect.shareRows() + ")"
}

// errRenumbered is a conflict: the same transaction, run again, may pass.
const errRenumbered = db.ConflictError("the number of lanes was changed meanwhile: run the " +
	"transaction again")

// Refused recognises the refusal of a lane that is none any more, and forgets the numbering.
func (l *Lanes) Refused(err error) error {
	text := err.Error()
	if !strings.Contains(text, "outbox_messages_lanes") && // PostgreSQL's condition
		!strings.Contains(text, "outbox_messages.lane") && // SQLite's column without a value
		!strings.Contains(text, "Column 'lane' cannot be null") { // MariaDB's
		return err
	}
	l.Forget()
	return fmt.Errorf("%w (%w)", errRenumbered, err)
}

// dialect is how a database refuses the lane of a writer that counts with an old number.
type dialect interface {
	// laneNumbers is the table whose rows are the lanes that writers may use; they hold a row until
	// they commit. It is empty where a condition on outbox_messages excludes all others.
	laneNumbers() string
	// shareRows ends a SELECT that holds the rows it reads until the transaction ends, as far as
	// that is needed.
	shareRows() string
}

type (
	postgres struct{}
	mariadb  struct{}
	sqlite   struct{}
)

func (postgres) laneNumbers() string { return "" }
func (postgres) shareRows() string   { return "" }
func (mariadb) laneNumbers() string  { return "outbox_lane_numbers" }
func (mariadb) shareRows() string    { return " LOCK IN SHARE MODE" }
func (sqlite) laneNumbers() string   { return "outbox_lanes" }
func (sqlite) shareRows() string     { return "" }
