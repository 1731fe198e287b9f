package replica

import (
	"log/slog"
	"sync/atomic"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// engine is what batches, subscriptions and the waiting messages work with: the collaborators that
// they share. Each part guards itself.
type engine struct {
	config Config
	log    *slog.Logger

	db     *bun.DB    // nil where there is no database
	tables *ownTables // nil likewise; for what is asked outside of batches
	room   room       // nil likewise

	models map[string]*binding // complete before the first message
	// as registered; parents before children once the tables' shapes are known
	order []*binding

	shapes      tableShapes
	inbox       inbox
	maintenance maintenance
	arrived     arrivals
	gaps        gapLog
	origins     origins
	overtaken   onceEach // models whose master went back, in the log
	locked      lockedKeys
	memory      memory
	trouble     repeated
	listener    mirrored.Listener // to what the master says; nil where nobody is
	controls    atomic.Int64      // that wait for what came before them
	counts      counters

	crash func(point string) error // nil but in tests: an error there is a crash there
}

func (e *engine) init(config Config) {
	e.config = config
	e.log = config.Logger.With("queue", config.Queue)
	e.models = make(map[string]*binding)
	e.inbox.init(e)
	e.memory.limit = config.WindowBytes
	e.maintenance.init()
	e.arrived.init()
	e.origins.init()
}

// at is a point where tests let a process crash.
func (e *engine) at(point string) error {
	if e.crash == nil {
		return nil
	}
	return e.crash(point)
}

// count counts an outcome.
func (e *engine) count(o Outcome) { e.counts.outcomes[o].Add(1) }
