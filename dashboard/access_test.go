package dashboard_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/dashboard"
)

const token = "correct horse battery staple"

func from(address, host string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr, r.Host = address, host }
}

func with(header, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(header, value) }
}

func TestEachReplyHasSecurityHeaders(t *testing.T) {
	s := one(t, dashboard.Config{})
	for _, path := range []string{"/", "/style.css", "/live.js", "/nothing", "/key", "/events?page=x"} {
		response, _ := s.ask(http.MethodGet, path)
		policy := response.Header.Get("Content-Security-Policy")
		require.Contains(s, policy, "default-src 'none'", path)
		require.Contains(s, policy, "frame-ancestors 'none'", path)
		require.NotContains(s, policy, "unsafe", path)
		require.Equal(s, "nosniff", response.Header.Get("X-Content-Type-Options"), path)
		require.Equal(s, "DENY", response.Header.Get("X-Frame-Options"), path)
		require.Equal(s, "no-referrer", response.Header.Get("Referrer-Policy"), path)
	}
}

func TestOnlyTheMachineItselfMayLookByDefault(t *testing.T) {
	s := one(t, dashboard.Config{})
	status := func(change func(*http.Request)) int {
		response, _ := s.ask(http.MethodGet, "/", change)
		return response.StatusCode
	}
	for _, at := range [][2]string{
		{"127.0.0.1:1", "localhost:9465"}, {"127.0.0.1:1", "127.0.0.1:9465"}, {"[::1]:1", "[::1]:9465"},
		{"127.0.0.1:1", "localhost"}, {"[::ffff:127.0.0.1]:1", "localhost"},
	} {
		require.Equal(s, http.StatusOK, status(from(at[0], at[1])), at)
	}
	for _, at := range [][2]string{
		{"10.0.0.7:1", "localhost:9465"}, {"127.0.0.1:1", "evil.example:9465"}, {"", "localhost"},
		{"127.0.0.1:1", "localhost.evil.example"}, {"127.0.0.1:1", ""}, {"@", "localhost"},
	} {
		require.Equal(s, http.StatusForbidden, status(from(at[0], at[1])), at)
	}
	response, _ := s.ask(http.MethodGet, "/events?page=overview", from("10.0.0.7:1", "localhost"))
	require.Equal(s, http.StatusForbidden, response.StatusCode)
}

func TestATokenOpensTheDashboard(t *testing.T) {
	s := one(t, dashboard.Config{Token: token})
	away := from("10.0.0.7:1", "relay.example")
	response, _ := s.ask(http.MethodGet, "/", away)
	require.Equal(s, http.StatusSeeOther, response.StatusCode)
	require.Equal(s, "login", response.Header.Get("Location"))
	require.Contains(s, s.get("/login", away), `type="password"`)

	give := func(text string) (reply, string) {
		return s.ask(http.MethodPost, "/login", away, func(r *http.Request) {
			form := url.Values{"token": {text}}.Encode()
			r.Body = readCloser{strings.NewReader(form)}
			r.ContentLength = int64(len(form))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		})
	}
	response, body := give("wrong")
	require.Equal(s, http.StatusUnauthorized, response.StatusCode)
	require.Contains(s, body, "This is not the token")
	response, _ = give(token)
	require.Equal(s, http.StatusSeeOther, response.StatusCode)
	cookie := response.Cookie
	require.True(s, cookie.HttpOnly)
	require.Equal(s, http.SameSiteStrictMode, cookie.SameSite)
	require.NotContains(s, cookie.Value, token)
	page := s.get("/", away, func(r *http.Request) { r.AddCookie(cookie) })
	require.NotContains(s, page, token)
	s.get("/", away, with("Authorization", "Bearer "+token))
	response, _ = s.ask(http.MethodGet, "/", away, with("Authorization", "Bearer wrong"))
	require.Equal(s, http.StatusUnauthorized, response.StatusCode)

	for range 40 {
		give("wrong")
	}
	response, _ = give(token)
	require.Equal(s, http.StatusUnauthorized, response.StatusCode, "nobody tries tokens quickly")
	s.get("/", away, func(r *http.Request) { r.AddCookie(cookie) })
	require.NotContains(s, s.log.String(), token)
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestAProxySaysWhoTheUserIs(t *testing.T) {
	s := one(t, dashboard.Config{UserHeader: "X-Forwarded-User"})
	away := from("10.0.0.7:1", "relay.example")
	response, _ := s.ask(http.MethodGet, "/", away)
	require.Equal(s, http.StatusForbidden, response.StatusCode)
	require.Contains(s, s.get("/", away, with("X-Forwarded-User", "ada")), "You are ada.")
}

func TestAServiceSaysWhoMayLook(t *testing.T) {
	s := one(t, dashboard.Config{Allow: func(r *http.Request) (string, bool) {
		return r.Header.Get("Name"), r.Header.Get("Name") == "ada"
	}})
	response, _ := s.ask(http.MethodGet, "/", with("Name", "eve"))
	require.Equal(s, http.StatusForbidden, response.StatusCode)
	require.Contains(s, s.get("/", with("Name", "ada")), "You are ada.")
}

func TestAnotherSiteCannotSendSomethingHere(t *testing.T) {
	s := one(t, dashboard.Config{Token: token})
	response, _ := s.ask(http.MethodPost, "/login", with("Sec-Fetch-Site", "cross-site"))
	require.Equal(s, http.StatusForbidden, response.StatusCode)
	response, _ = s.ask(http.MethodPost, "/login", with("Origin", "https://evil.example"))
	require.Equal(s, http.StatusForbidden, response.StatusCode)
}
