package dashboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

//go:embed assets
var assets embed.FS

var templates = template.Must(template.New("").Funcs(functions).ParseFS(assets, "assets/*.html"))

// routes are the pages. Whatever changes something is a POST.
func (d *Dashboard) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.overview)
	mux.HandleFunc("GET /replicas", d.replicas)
	mux.HandleFunc("GET /stuck", d.stuck)
	mux.HandleFunc("GET /letter", d.letter)
	mux.HandleFunc("GET /key", d.key)
	mux.HandleFunc("GET /events", d.events)
	for name, kind := range map[string]string{
		"style.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8",
		"icon.svg": "image/svg+xml",
	} {
		mux.HandleFunc("GET /"+name, asset(name, kind))
	}
	if d.config.Actions != nil {
		d.actions(mux)
	}
	if d.config.Token != "" {
		mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
			d.render(w, r, "login", "Enter", loginPage{})
		})
		mux.HandleFunc("POST /login", d.enter)
	}
	return mux
}

func isAsset(path string) bool {
	return path == "/style.css" || path == "/live.js" || path == "/icon.svg"
}

func asset(name, kind string) http.HandlerFunc {
	body, err := assets.ReadFile("assets/" + name)
	if err != nil {
		panic(err) // it is in the binary
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
	}
}

// layout is what each page has around its own.
type layout struct {
	Page, Title string
	// Body is the page's own data.
	Body any
	// Who looks, Acts that actions are offered, Live that the page is kept fresh.
	Who  string
	Acts bool
	Live bool
	Note *note
}

// note says what became of an action.
type note struct {
	Text string
	Bad  bool
}

type loginPage struct{ Wrong bool }

// render writes a page. It is whole before the first byte goes out.
func (d *Dashboard) render(
	w http.ResponseWriter, r *http.Request, page, title string, body any,
) {
	out := layout{
		Page: page, Title: title, Body: body, Who: visitorOf(r.Context()),
		Acts: d.config.Actions != nil, Note: d.noteOf(r),
		Live: page == "overview" || page == "replicas" || page == "stuck",
	}
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, "layout.html", out); err != nil {
		d.log.Error("a page of the dashboard cannot be made", "page", page, "error", err)
		refuse(w, http.StatusInternalServerError, "This page cannot be made: the log says why.")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(text.Bytes()) // who asked has gone
}

type visitorKey struct{}

func withVisitor(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, visitorKey{}, who)
}

func visitorOf(ctx context.Context) string {
	who, _ := ctx.Value(visitorKey{}).(string)
	return who
}

func (d *Dashboard) overview(w http.ResponseWriter, r *http.Request) {
	d.render(w, r, "overview", "Overview", d.overviewOf(r.Context()))
}

func (d *Dashboard) replicas(w http.ResponseWriter, r *http.Request) {
	d.render(w, r, "replicas", "Replicas", d.replicasOf(r.Context()))
}

func (d *Dashboard) stuck(w http.ResponseWriter, r *http.Request) {
	d.render(w, r, "stuck", "Stuck", d.stuckOf(r.Context()))
}

// keyPage is what is known of one key, or why nothing is.
type keyPage struct {
	Asked string
	Wrong string
	Key   *admin.Key
	State diagnosis.KeyState
	// Resync says that a key can be sent again.
	Resync bool
	// Held is what messages hold that replicas did not apply.
	Held []heldAtReplica
}

// heldAtReplica is a message that a replica did not apply.
type heldAtReplica struct {
	Queue string
	admin.StuckAtReplica
	Data string
}

// heldOf are the messages of a key that replicas did not apply.
func heldOf(k *admin.Key) (all []heldAtReplica) {
	for _, r := range k.Replicas {
		for _, s := range r.Stuck {
			data := "(it is no JSON, or too large to be told here: relay dead-letters list, or relay " +
				"waiting list, with --side replica --json and the replica's database)"
			if len(s.Body) > 0 {
				data = masked(s.Body)
			}
			all = append(all, heldAtReplica{r.Queue, s, data})
		}
	}
	return all
}

// answerTime is how long replicas may take to say what they have of a key.
const answerTime = 5 * time.Second

func (d *Dashboard) key(w http.ResponseWriter, r *http.Request) {
	page := keyPage{Asked: r.URL.Query().Get("q")}
	page.Resync = d.config.Actions != nil && d.config.Actions.Resync != nil
	title := "Find a key"
	if page.Asked != "" {
		model, key, err := diagnosis.ParseKey(page.Asked)
		if err == nil {
			title = diagnosis.KeyName(model, key)
			page.Key, err = d.lookFor(r.Context(), model, key)
		}
		if err != nil {
			page.Wrong = err.Error()
		} else {
			page.State = diagnosis.OfKey(page.Key)
			page.Held = heldOf(page.Key)
		}
	}
	d.render(w, r, "key", title, page)
}

func (d *Dashboard) lookFor(ctx context.Context, model, key string) (*admin.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime+readTime)
	defer cancel()
	master, err := d.config.Tables.Master(ctx)
	if err != nil {
		return nil, err
	}
	return master.Key(ctx, model, key, answerTime)
}

// letterPage is one dead letter of the master, with what it holds.
type letterPage struct {
	Letter *admin.DeadLetter
	Data   string
	Acts   bool
}

func (d *Dashboard) letter(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.URL.Query().Get("id"))
	var page letterPage
	if err == nil {
		page, err = d.letterOf(r.Context(), id)
	}
	if errors.Is(err, errNoLetter) {
		w.WriteHeader(http.StatusNotFound)
		d.render(w, r, "nothing", "Not there", "This dead letter is not there any more: it was "+
			"sent again, or purged.")
		return
	}
	if err != nil {
		d.render(w, r, "nothing", "Not readable", err.Error())
		return
	}
	d.render(w, r, "letter", "Dead letter of "+diagnosis.KeyName(page.Letter.Model,
		page.Letter.Key), page)
}

var errNoLetter = errors.New("no such dead letter")

func (d *Dashboard) letterOf(ctx context.Context, id int64) (page letterPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	master, err := d.config.Tables.Master(ctx)
	if err != nil {
		return page, err
	}
	err = master.DeadLetters(ctx, admin.DeadLetterFilter{IDs: []int64{id}}, 1,
		func(l admin.DeadLetter) error {
			page.Letter, page.Acts = &l, d.config.Actions != nil
			page.Data = masked(l.Data)
			return nil
		})
	if err == nil && page.Letter == nil {
		err = errNoLetter
	}
	return page, err
}

// plain is a text in a page without markup, of a bounded length.
func plain(text string) string {
	const most = 600
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return strings.ToValidUTF8(text, "�")
}
