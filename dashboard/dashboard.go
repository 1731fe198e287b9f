// Package dashboard shows a master and its replicas in a browser: whether all is moving, who is
// late, what is stuck and why, where one key is, and what to do.
//
//	page, err := dashboard.Handler(dashboard.Config{Tables: tables})
//	http.Handle("/cqrsync/", http.StripPrefix("/cqrsync", page))
//	go page.Run(ctx) // the plots of the last hour
//
// relay run --ui serves the same. It reads the master's database, at most every two seconds however
// many look, and asks replicas over the broker. Without Config.Actions it changes nothing. Who may
// look says the Config; by default who sits at the machine.
//
// Neighbours: operate/diagnosis has the words, operate/admin the tables. Pages work without
// JavaScript, which only keeps them fresh.
package dashboard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/relay"
)

// Config configures a dashboard. Tables are required. At most one of Token, UserHeader and Allow is
// set; with none of them only requests from the loopback interface, to its names, are answered.
type Config struct {
	// Tables are cqrsync's own in the master's database.
	Tables *admin.Tables
	// Relay is the one of this process, which has counters. Default: none.
	Relay Relay
	// Token is what a visitor has to give, in a form or as Authorization: Bearer. At least 16
	// characters.
	Token string
	// UserHeader is the header in which a proxy says who the user is. Whoever reaches the handler
	// past the proxy may write it, too, so nobody may.
	UserHeader string
	// Allow says who a request is from, and whether that one may look, and act where there are
	// Actions. It is for a service that knows its users.
	Allow func(*http.Request) (who string, ok bool)
	// Actions are what may be done. Default: nothing, the dashboard only shows.
	Actions *Actions
	// Diagnosis says from when on something is a trouble.
	Diagnosis diagnosis.Config
	// Logger receives each action, and what goes wrong. Default: slog.Default().
	Logger *slog.Logger
}

// Relay is what a dashboard asks of a *relay.Relay.
type Relay interface {
	ID() string
	Stats() relay.Stats
}

const shortestToken = 16

func (c Config) validate() error {
	var errs []error
	if c.Tables == nil {
		errs = append(errs, errors.New("field Tables is nil: pass what admin.Open returns"))
	}
	if c.Token != "" && len(c.Token) < shortestToken {
		errs = append(errs, fmt.Errorf("the Token has %d characters: want at least %d, drawn at random",
			len(c.Token), shortestToken))
	}
	ways := 0
	for _, set := range []bool{c.Token != "", c.UserHeader != "", c.Allow != nil} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		errs = append(errs, errors.New("of Token, UserHeader and Allow more than one is set: want "+
			"one, or none for the loopback interface"))
	}
	return errors.Join(errs...)
}

// Dashboard is the http.Handler. It is safe for concurrent use.
type Dashboard struct {
	config    Config
	handler   http.Handler
	session   session
	history   history
	streaming atomic.Int64
	ended     chan struct{} // closed when Run ends, and with it what keeps pages fresh
	end       func()
	log       *slog.Logger

	mu    sync.Mutex
	until time.Time
	state diagnosis.State
}

// Handler makes a dashboard. Mount it with http.StripPrefix: it expects its pages at /. It talks to
// nobody before somebody looks.
func Handler(c Config) (*Dashboard, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("dashboard: configuration: %w", err)
	}
	d := &Dashboard{config: c, log: cmp.Or(c.Logger, slog.Default()), session: newSession(),
		ended: make(chan struct{})}
	d.end = sync.OnceFunc(func() { close(d.ended) })
	d.handler = d.guarded(d.routes())
	return d, nil
}

// ServeHTTP implements http.Handler.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.handler.ServeHTTP(w, r)
}

// sampleEvery is how often Run notes how things stand.
const sampleEvery = 5 * time.Second

// Run notes every five seconds how things stand, for the plots of the last hour, until ctx ends,
// and returns nil then. With it ends what keeps open pages fresh, so that a server can shut down:
// run it for as long as the server. Without it the plots have what was seen when somebody looked.
func (d *Dashboard) Run(ctx context.Context) error {
	defer d.end()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		d.read(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// fresh is how long what was read is shown, however many look.
var fresh = 2 * time.Second

// readTime bounds how long the database may take.
const readTime = 5 * time.Second

// read returns how things stand, and notes it for the plots.
func (d *Dashboard) read(ctx context.Context) diagnosis.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Now().Before(d.until) {
		return d.state
	}
	// The answer is for whoever looks next, too: it does not end with the one who asked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTime)
	defer cancel()
	d.state = diagnosis.Read(ctx, d.config.Tables, d.config.Diagnosis)
	var left *gone
	if d.config.Relay != nil {
		st := d.config.Relay.Stats()
		left = &gone{st.Published, st.Published + st.Compacted + st.DeadLetters}
	}
	d.history.add(time.Now(), d.state, left)
	d.until = time.Now().Add(fresh)
	return d.state
}

// forget has the next look read anew: something was done.
func (d *Dashboard) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until = time.Time{}
}
