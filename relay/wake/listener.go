// Package wake lets a relay hear at once what other processes commit.
//
//	listener, err := wake.NewListener(url, wake.Config{})
//	rel, err := relay.New(db, publisher, relay.Config{Wake: listener.Wake()})
//	go listener.Run(ctx)
//
// Neighbours: outbox sends the notifications; relay polls all the same, because they may get lost.
// It stands beside relay so that only those who want it link pgx.
package wake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/address"
	"github.com/cqrsync/cqrsync/internal/db"
)

// Config configures a Listener. The zero value is usable.
type Config struct {
	// Schema and TablePrefix say where the outbox tables are, as in outbox.Config. Default: the
	// connection's search path and no prefix.
	Schema, TablePrefix string
	// Logger receives a line when listening begins, ends, or is not possible. Default:
	// slog.Default().
	Logger *slog.Logger
}

// Listener hears, over a connection of its own, what other processes commit to an outbox in
// PostgreSQL, so that a relay need not wait for its next poll. What it does not hear the relay
// finds by polling.
type Listener struct {
	config *pgx.ConnConfig // nil: another database, nothing to hear
	names  db.Names
	log    *slog.Logger
	wake   chan struct{}
}

// NewListener reads the URL; it does not connect. A URL of another database gives a Listener that
// hears nothing.
func NewListener(rawURL string, cfg Config) (*Listener, error) {
	l := &Listener{
		names: db.Names{Schema: cfg.Schema,
			Prefix: cfg.TablePrefix}, log: cfg.Logger, wake: make(chan struct{}, 1),
	}
	if l.log == nil {
		l.log = slog.Default()
	}
	if err := l.names.Validate(); err != nil {
		return nil, err
	}
	if scheme, _, _ := strings.Cut(rawURL, "://"); scheme != "postgres" && scheme != "postgresql" {
		return l, nil
	}
	if err := address.RequireEscaped(rawURL); err != nil {
		return nil, fmt.Errorf("database URL %q: %w", database.Redact(rawURL), err)
	}
	config, err := pgx.ParseConfig(rawURL)
	if err != nil { // pgx redacts passwords in most of its messages, not in all
		return nil, fmt.Errorf("database URL %q: not a PostgreSQL URL (user, host, port, options?)",
			database.Redact(rawURL))
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	l.config = config
	return l, nil
}

// Wake is for relay.Config.Wake.
func (l *Listener) Wake() <-chan struct{} { return l.wake }

var errProxied = errors.New("a proxy is in between: notifications are for the session, which it " +
	"shares out")

// Run listens until ctx ends, and connects again when the connection is lost. It returns early
// where nothing can be heard: on other databases, and through a proxy such as PgBouncer, which it
// finds out by itself.
func (l *Listener) Run(ctx context.Context) {
	const shortest, longest = time.Second, 30 * time.Second
	pause := shortest
	for l.config != nil {
		start := time.Now()
		err := l.listen(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errProxied):
			l.log.Info("not woken by other processes, polling instead", "reason", err)
			return
		case time.Since(start) > longest:
			pause = shortest
		}
		l.log.Warn("wake-ups from other processes are interrupted, polling meanwhile", "error", err,
			"again_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, longest)
	}
}

func (l *Listener) listen(ctx context.Context) error {
	const patience = 10 * time.Second
	connecting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, l.config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // it is gone either way
	}()
	var pid uint32
	var channel *string
	if err := conn.QueryRow(connecting, "SELECT pg_backend_pid(), "+
		l.names.WakeChannel()).Scan(&pid, &channel); err != nil {
		return err
	}
	if pid != conn.PgConn().PID() { // PgBouncer and its like have numbers of their own
		return errProxied
	}
	if channel == nil {
		return errors.New("there is no outbox yet")
	}
	if _, err := conn.Exec(connecting, "LISTEN "+pgx.Identifier{*channel}.Sanitize()); err != nil {
		return err
	}
	l.log.Debug("woken by other processes", "channel", *channel)
	for {
		select { // also for what was committed before
		case l.wake <- struct{}{}:
		default: // one is pending already
		}
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}
