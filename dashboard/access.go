package dashboard

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"
)

// guarded is a handler behind what holds for each request: the headers, that no other site sends a
// visitor's browser here, and who may look.
func (d *Dashboard) guarded(next http.Handler) http.Handler {
	own := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		if r.URL.Path == "" { // mounted by StripPrefix, and called without the slash
			redirect(w, http.StatusPermanentRedirect, path.Base(requestPath(r))+"/")
			return
		}
		if err := own.Check(r); err != nil {
			refuse(w, http.StatusForbidden, "This came from another site, and nothing was done.")
			return
		}
		if isAsset(r.URL.Path) || d.config.Token != "" && r.URL.Path == "/login" {
			next.ServeHTTP(w, r)
			return
		}
		who, why := d.visitor(r)
		switch {
		case why == "":
			next.ServeHTTP(w, r.WithContext(withVisitor(r.Context(), who)))
		case d.config.Token != "" && r.Method == http.MethodGet && r.Header.Get("Authorization") == "":
			redirect(w, http.StatusSeeOther, "login")
		case d.config.Token != "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="cqrsync"`)
			refuse(w, http.StatusUnauthorized, why)
		default:
			refuse(w, http.StatusForbidden, why)
		}
	})
}

func requestPath(r *http.Request) string {
	whole, _, _ := strings.Cut(r.RequestURI, "?")
	return whole
}

// redirect leads to another page of the dashboard. http.Redirect would lead to the root of the
// site, because it does not know where this is mounted.
func redirect(w http.ResponseWriter, status int, page string) {
	w.Header().Set("Location", page)
	w.WriteHeader(status)
}

// secure sets the headers that each reply has.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; "+
		"img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "+
		"base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
}

func refuse(w http.ResponseWriter, status int, why string) {
	http.Error(w, why, status)
}

// visitor says who a request is from, or why that one may not look.
func (d *Dashboard) visitor(r *http.Request) (who, why string) {
	c := d.config
	switch {
	case c.Allow != nil:
		if who, ok := c.Allow(r); ok {
			return who, ""
		}
		return "", "You may not see this."
	case c.UserHeader != "":
		if who := strings.TrimSpace(r.Header.Get(c.UserHeader)); who != "" {
			return who, ""
		}
		return "", "The proxy did not say who you are: the header " + c.UserHeader + " is missing."
	case c.Token != "":
		bearer, is := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if is && d.session.isToken(c.Token, bearer) || d.session.has(r) {
			return "somebody with the token, from " + r.RemoteAddr, ""
		}
		return "", "The token is missing or wrong."
	case !isLoopback(r.RemoteAddr):
		return "", "Only the machine itself may see this: set a token, or go through a proxy that " +
			"says who you are."
	case !isLocalName(r.Host):
		// another site may have its own name lead here, and read what the browser is shown
		return "", "Only under the names of the machine itself: localhost or 127.0.0.1."
	default:
		return "somebody at the machine", ""
	}
}

func isLoopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	at, err := netip.ParseAddr(host)
	return err == nil && at.Unmap().IsLoopback()
}

// session remembers in a cookie that a visitor gave the token. It ends with the process.
type session struct {
	key   []byte
	tries *tries
}

func newSession() session {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return session{key, &tries{}}
}

// cookieName has no prefix: __Host- wants TLS, which a proxy in front may end.
const (
	cookieName = "cqrsync_dashboard"
	cookieLife = 12 * time.Hour
)

// value is what the cookie holds: nothing of the token.
func (s session) value() string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(cookieName))
	return hex.EncodeToString(mac.Sum(nil))
}

func (s session) has(r *http.Request) bool {
	for _, c := range r.CookiesNamed(cookieName) {
		if subtle.ConstantTimeCompare([]byte(c.Value), []byte(s.value())) == 1 {
			return true
		}
	}
	return false
}

// isToken compares in a time that says nothing of the token, and not too often.
func (s session) isToken(token, given string) bool {
	if !s.tries.take(time.Now()) {
		return false
	}
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return false
	}
	s.tries.back()
	return true
}

// tries bounds how often a wrong token is looked at: 30 times a minute, by all visitors together.
type tries struct {
	mu    sync.Mutex
	since time.Time
	n     int
}

const mostTries = 30

func (t *tries) take(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.since) >= time.Minute {
		t.since, t.n = now, 0
	}
	t.n++
	return t.n <= mostTries
}

func (t *tries) back() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
}

// enter takes the token from the form.
func (d *Dashboard) enter(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	if !d.session.isToken(d.config.Token, r.PostFormValue("token")) {
		w.WriteHeader(http.StatusUnauthorized)
		d.render(w, r, "login", "Enter", loginPage{Wrong: true})
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: d.session.value(), Path: cookiePath(r), HttpOnly: true,
		Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode, MaxAge: int(cookieLife.Seconds()),
	})
	redirect(w, http.StatusSeeOther, "./")
}

// cookiePath is where the dashboard is mounted.
func cookiePath(r *http.Request) string { return strings.TrimSuffix(requestPath(r), "login") }
