package outbox

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Config says where cqrsync's tables are. The zero value is ready to use.
type Config struct {
	// Schema that holds the outbox tables. Default: the connection's search path.
	Schema string
	// TablePrefix stands before every table name. Default: none.
	TablePrefix string
	// NotifyEvery is the shortest time between two wake-ups of relays in other processes. On
	// PostgreSQL they are a NOTIFY after commits that appended messages: outside of the
	// transaction, on a connection of the pool, as seldom as this says. Elsewhere there are none,
	// and such relays find messages by polling. Relays in this process are woken by [Box.Wake] in
	// any case. Default: 5 ms; negative sends none.
	NotifyEvery time.Duration
	// NoNotify is a negative NotifyEvery by its old name.
	//
	// Deprecated: set NotifyEvery.
	NoNotify bool
	// Headers returns what travels beside the messages of a transaction with the given context, as
	// broker headers: the W3C trace context, say. With OpenTelemetry:
	//
	//	func(ctx context.Context) map[string]string {
	//		headers := propagation.MapCarrier{}
	//		otel.GetTextMapPropagator().Inject(ctx, headers)
	//		return headers
	//	}
	//
	// Those of [WithHeaders] win. Default: none.
	Headers func(ctx context.Context) map[string]string
	// Trace is called before each transaction of [Box.RunInTx], not before one within another. The
	// transaction runs with the context that it returns, which Headers sees; the function is called
	// with the transaction's error when it is over. Package otel makes a span of it. Default: none.
	Trace func(ctx context.Context) (context.Context, func(error))
	// Prepare keeps the statement that appends the message of a single row prepared on each of the
	// database's connections. On PostgreSQL a small transaction then costs the server a tenth less;
	// elsewhere it changes nothing. Not through a proxy that pools transactions, unless it carries
	// prepared statements over: PgBouncer does from 1.21 on, with max_prepared_statements set;
	// through an older one transactions would fail. Bun's query hooks do not see the statement.
	// Default: off.
	Prepare bool
	// Logger is told what no caller's error can say: who holds a lock for long, that relays in
	// other processes are not woken, and what [Box.Check] finds that is no error. Default:
	// slog.Default().
	Logger *slog.Logger
	// Observe captures as ever, and refuses nothing: for the first week of a service that is there
	// already. What would be refused runs, is counted ([Box.Observed]), and logged once for each
	// call site. It is not safe: what such a statement writes may not be sent, and "relay diff"
	// shows it. What would hang or take the transaction apart stays refused: COPY, a statement that
	// ends the transaction, one that would wait for its own transaction or comes behind the
	// function of RunInTx; and a row with a value that cannot be read. Default: off.
	Observe bool
	// NaNAsNull sends NaN and the infinities as null, for all models (see [NaNAsNull]). Default: as
	// Python has them.
	NaNAsNull bool
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	if c.NoNotify {
		c.NotifyEvery = -1
	}
	c.NotifyEvery = cmp.Or(c.NotifyEvery, announceEvery)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// names are the names of the tables. Package db checks them, against the kind of database, too.
func (c Config) names() db.Names { return db.Names{Schema: c.Schema, Prefix: c.TablePrefix} }
