package outbox

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/uptrace/bun"
)

// Observed is what a Box with [Config].Observe would have refused since it was made. Each of these
// statements ran, and what it wrote may be missing in the outbox.
type Observed struct {
	// Total counts refusals, Sites the same by the place that calls bun or RunInTx, as file:line.
	Total int64
	Sites map[string]int64
}

// Observed returns what would have been refused; nothing where [Config].Observe is off. It may be
// called at any time, for a metric say.
func (b *Box) Observed() Observed {
	if b.observer == nil {
		return Observed{}
	}
	b.observer.mu.Lock()
	defer b.observer.mu.Unlock()
	return Observed{b.observer.total, maps.Clone(b.observer.sites)}
}

// observer lets pass what a box would refuse. A nil one lets nothing pass.
type observer struct {
	box *Box

	mu     sync.Mutex
	total  int64
	sites  map[string]int64
	passed map[bun.Query]bool // a model's hook let them pass: the guard of the database comes next
}

func newObserver(b *Box) *observer {
	o := &observer{box: b, sites: map[string]int64{}, passed: map[bun.Query]bool{}}
	observers.Store(b.db.DB, o)
	newestObserver.Store(o)
	return o
}

// allows counts a refusal that is not to be one, and logs it when its call site has none yet.
func (o *observer) allows(ctx context.Context, refused error) bool {
	if o == nil {
		return false
	}
	site := callSite()
	o.mu.Lock()
	o.total++
	o.sites[site]++
	first := o.sites[site] == 1
	o.mu.Unlock()
	if first {
		o.box.log.WarnContext(ctx,
			"outbox: Config.Observe let pass what would be refused: what it writes may not be sent",
			"call site", site, "refusal", refused)
	}
	return true
}

// allowsQuery is allows for a model's hook. The guard sees the same query if the database has one.
func (o *observer) allowsQuery(ctx context.Context, q trackedQuery, refused error) bool {
	if o != nil && o.box.db.DB == q.DB().DB && o.box.waitsForItself(ctx) {
		return true // and the guard refuses it
	}
	if !o.allows(ctx, refused) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.passed) > maxPassed { // of databases that no guard watches
		clear(o.passed)
	}
	o.passed[q] = true
	return true
}

const maxPassed = 1000

// allowsNext is allows for the guard: what a model's hook has counted is not counted again.
func (o *observer) allowsNext(ctx context.Context, q bun.Query, refused error) bool {
	if o == nil {
		return false
	}
	o.mu.Lock()
	counted := q != nil && o.passed[q]
	delete(o.passed, q)
	o.mu.Unlock()
	return counted || o.allows(ctx, refused)
}

// A model's hook knows no Box. observers says who observes a pool of connections, or a registered
// type, nil for nobody; newestObserver is asked about types that no Box knows.
var (
	observers      sync.Map // *sql.DB or reflect.Type → *observer
	newestObserver atomic.Pointer[observer]
)

func observerOf(db *bun.DB, model bun.Model) *observer {
	asked := []any{db.DB}
	if given, isModel := model.(bun.TableModel); isModel {
		asked = append(asked, given.Table().Type)
	}
	for _, key := range asked {
		if o, found := observers.Load(key); found {
			return o.(*observer) //nolint:forcetypeassert // nothing else is stored
		}
	}
	return newestObserver.Load()
}

// observeType notes who observes a type. One that any Box does not observe is refused.
func (b *Box) observeType(typ reflect.Type) {
	if _, found := observers.LoadOrStore(typ, b.observer); found && b.observer == nil {
		observers.Store(typ, b.observer)
	}
}

// mustRefuse says that a statement would hang, or take the transaction itself apart: no observer
// lets it pass. COPY waits in the driver for somebody to feed it.
func mustRefuse(event *bun.QueryEvent, refused *RefusedError) bool {
	return refused.Verb == "COPY" || judgementOf(event).ends
}

// callSite is the first caller outside of bun and this package.
func callSite() string {
	var callers [64]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if frame.Function != "" && !isBelow(frame.Function) {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

func isBelow(function string) bool {
	for _, prefix := range []string{
		"runtime.", "database/sql.", "github.com/uptrace/bun", reflect.TypeFor[Box]().PkgPath() +
			".",
	} {
		if strings.HasPrefix(function, prefix) {
			return true
		}
	}
	return false
}

// warnOfObserver says in Check that refusals are off.
func (b *Box) warnOfObserver(ctx context.Context) {
	if b.observer == nil {
		return
	}
	o := b.Observed()
	b.log.WarnContext(ctx,
		"outbox: Config.Observe is on: nothing is refused, and what cannot be captured is not sent",
		"would have been refused", o.Total, "call sites", len(o.Sites))
}
