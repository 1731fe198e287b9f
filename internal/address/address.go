// Package address shows the URLs of databases and brokers without their passwords.
//
// A password with a delimiter that is not percent-encoded is what makes most of those URLs
// unreadable, and parsers quote in their errors the piece that they stumbled over, which is then a
// piece of the password. So such a URL is refused before anything parses it, by the name of the
// delimiter, and of a URL that cannot be read nothing is shown.
//
// Neighbours: package database shows it to everybody as database.Redact.
package address

import (
	"fmt"
	"regexp"
	"strings"
)

// RequireEscaped returns an error if a URL has a delimiter before its last @ that is not
// percent-encoded: then nobody can tell where user and password end. Files (sqlite://) have no
// password.
func RequireEscaped(rawURL string) error {
	scheme, rest, found := strings.Cut(rawURL, "://")
	if !found || strings.EqualFold(scheme, "sqlite") {
		return nil
	}
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return nil
	}
	if i := strings.IndexAny(rest[:at], "/?#@"); i >= 0 {
		return fmt.Errorf("it has a %q before its last @: in user, password and options, write / "+
			"as %%2F, ? as %%3F, # as %%23 and @ as %%40", rest[i:i+1])
	}
	return nil
}

var (
	scheme    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]{0,19}$`)
	hosts     = regexp.MustCompile(`^(?:(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._%-]*)(?::[0-9]{1,5})?,?)+$`)
	unescaped = regexp.MustCompile(`%(?:[^0-9A-Fa-f]|.[^0-9A-Fa-f]|.?$)|[\x00-\x20\x7f]`)
	secrets   = regexp.MustCompile(`(?i)pass|secret|token|%`)
)

// Redact returns a URL without its password, for logs and errors, and of one that cannot be read
// its scheme only.
func Redact(rawURL string) string {
	kind, rest, found := strings.Cut(rawURL, "://")
	if !found || !scheme.MatchString(kind) {
		return "(not a URL)"
	}
	if strings.EqualFold(kind, "sqlite") {
		return rawURL
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	user, host := "", rest[:end]
	if at := strings.LastIndex(host, "@"); at >= 0 {
		user, host = host[:at], host[at+1:]
	}
	path, query, hasQuery := strings.Cut(rest[end:], "?")
	if RequireEscaped(rawURL) != nil || unescaped.MatchString(rest) ||
		host != "" && !hosts.MatchString(host) ||
		strings.Contains(rest[end:], "#") {
		return kind + "://(unreadable)"
	}
	shown := kind + "://"
	if name, _, hasPassword := strings.Cut(user, ":"); hasPassword {
		shown += name + ":xxxxx@"
	} else if user != "" && strings.EqualFold(kind, "nats") {
		shown += "xxxxx@" // NATS takes a user without a password for a token
	} else if user != "" {
		shown += name + "@"
	}
	shown += host + path
	switch {
	case !hasQuery:
	case secrets.MatchString(query):
		shown += "?xxxxx"
	default:
		shown += "?" + query
	}
	return shown
}
