package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// Actions are what may be done. Retrying, purging, verifying and forgetting need the master's
// database alone, and are there with any Actions; the others only where they are set. All of them
// may be called at once.
type Actions struct {
	// Resync sends the states of keys to one replica once more, and returns how many it was.
	Resync func(ctx context.Context, queue, model string, keys []string) (sent int, err error)
	// Backfill has all of a model sent to one replica, and does not wait for it.
	Backfill func(ctx context.Context, queue, model string) error
	// RetryAt has a replica try its dead letters of a model again, and does not wait for it.
	RetryAt func(ctx context.Context, queue, model string) error
	// PurgeAt has a replica delete its dead letters of a model that were given up before a time by
	// its clock, and does not wait for it.
	PurgeAt func(ctx context.Context, queue, model string, before time.Time) error
}

// plan is an action before it is done.
type plan struct {
	// Will says what will happen, Button is what does it, Danger that it cannot be taken back.
	Will, Button string
	Danger       bool
	// Back is the page to go to then.
	Back string
	// what is the audit line.
	what string
	do   func(context.Context) (outcome string, err error)
}

// errNoAction says that nothing is known by the name of an action, or by what it is about.
var errNoAction = errors.New("there is no such action, or what it was about is not there any more")

// actTime bounds how long an action may take.
const actTime = 60 * time.Second

// actions are the pages by which something is done.
func (d *Dashboard) actions(mux *http.ServeMux) {
	mux.HandleFunc("GET /confirm", d.confirm)
	mux.HandleFunc("POST /do", d.do)
	mux.HandleFunc("GET /audit", d.audit)
}

type field struct{ Name, Value string }

type confirmPage struct {
	plan

	Wrong  string
	Fields []field
}

// fieldsOf are what an action is about, from a link or a form.
func fieldsOf(from url.Values) (fields []field) {
	for _, name := range []string{"do", "group", "id", "queue", "model", "key", "before"} {
		if value := from.Get(name); value != "" {
			fields = append(fields, field{name, value})
		}
	}
	return fields
}

// confirm says what will happen.
func (d *Dashboard) confirm(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	from := r.URL.Query()
	p, err := d.plan(ctx, from)
	if err != nil {
		w.WriteHeader(statusOf(err))
		d.render(w, r, "nothing", "Nothing was done", err.Error())
		return
	}
	d.render(w, r, "confirm", p.Button+"?", confirmPage{plan: p, Fields: fieldsOf(from)})
}

func statusOf(err error) int {
	if errors.Is(err, errNoAction) {
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// do does what was confirmed, and says how it ended on the page that the visitor came from.
func (d *Dashboard) do(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "This form cannot be read, and nothing was done.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), actTime)
	defer cancel()
	p, err := d.plan(ctx, r.PostForm)
	if err != nil {
		w.WriteHeader(statusOf(err))
		d.render(w, r, "nothing", "Nothing was done", err.Error())
		return
	}
	done, err := d.act(ctx, visitorOf(r.Context()), p)
	d.forget()
	if err != nil && done.ID == 0 {
		w.WriteHeader(http.StatusInternalServerError)
		d.render(w, r, "nothing", "Nothing was done", err.Error())
		return
	}
	sep := "?"
	if u, err := url.Parse(p.Back); err == nil && u.RawQuery != "" {
		sep = "&"
	}
	redirect(w, http.StatusSeeOther, p.Back+sep+"done="+strconv.FormatInt(done.ID, 10))
}

// act does it, with an audit line in the table and in the log.
func (d *Dashboard) act(ctx context.Context, who string, p plan) (admin.Action, error) {
	master, err := d.config.Tables.Master(ctx)
	if err != nil {
		return admin.Action{}, err
	}
	done, err := master.Note(ctx, who, p.what, p.do)
	d.log.Info("somebody acted by the dashboard", "who", who, "action", p.what,
		"outcome", done.Outcome, "error", err)
	return done, err
}

// noteOf is how the action ended after which a page is shown.
func (d *Dashboard) noteOf(r *http.Request) *note {
	id, err := strconv.ParseInt(r.URL.Query().Get("done"), 10, 64)
	if err != nil || d.config.Actions == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	master, err := d.config.Tables.Master(ctx)
	if err != nil {
		return nil
	}
	a, known, err := master.Action(ctx, id)
	if err != nil || !known {
		return nil
	}
	bad := len(a.Outcome) >= 6 && a.Outcome[:6] == "failed"
	return &note{fmt.Sprintf("%s: %s", a.Action, a.Outcome), bad}
}

// mostAudited bounds how many lines the page shows.
const mostAudited = 200

func (d *Dashboard) audit(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	master, err := d.config.Tables.Master(ctx)
	var all []admin.Action
	if err == nil {
		all, err = master.Actions(ctx, mostAudited)
	}
	if err != nil {
		d.render(w, r, "nothing", "Not readable", err.Error())
		return
	}
	d.render(w, r, "audit", "What was done", all)
}
