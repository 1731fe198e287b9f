package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Parameters reads the query's parameters. One that is not among the names is an error, because it
// is a misspelt one, and so is one that is given twice or cannot be decoded.
func Parameters(r *http.Request, names ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, InvalidError{"query: " + Short(err.Error())}
	}
	var problems InvalidError
	for name, given := range values {
		switch {
		case !slices.Contains(names, name) && len(names) == 0:
			problems = append(problems, fmt.Sprintf("%s: unknown parameter, want none", Short(name)))
		case !slices.Contains(names, name):
			problems = append(problems, fmt.Sprintf("%s: unknown parameter, want %s",
				Short(name), strings.Join(names, ", ")))
		case len(given) > 1:
			problems = append(problems, fmt.Sprintf("%s: given %d times", name, len(given)))
		}
	}
	if len(problems) > 0 {
		slices.Sort(problems)
		return nil, problems
	}
	return values, nil
}

// PathID reads the path's {id}, for a handler that takes no parameters.
func PathID(r *http.Request) (int64, error) {
	if _, err := Parameters(r); err != nil {
		return 0, err
	}
	return ID("id", r.PathValue("id"))
}

// ID reads an id, a positive integer, from the text of the parameter name.
func ID(name, text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 || strconv.FormatInt(id, 10) != text {
		return 0, InvalidError{fmt.Sprintf("%s: %s is not a positive integer", name, Quote(text))}
	}
	return id, nil
}

// Page is what part of a list a request wants.
type Page struct {
	Limit int
	// From is the id of the last row of the part before; zero is the beginning.
	From int64
}

// The sizes of a page: what a client gets that asks for none, and the most it can ask for.
const (
	defaultLimit = 50
	maxLimit     = 200
)

// PageOf reads the parameter limit, and the one that continues the list: "after" where ids go up,
// "before" where the newest come first.
func PageOf(values url.Values, cursor string) (Page, error) {
	page := Page{Limit: defaultLimit}
	var problems InvalidError
	if values.Has("limit") {
		n, err := strconv.Atoi(values.Get("limit"))
		if err != nil || n < 1 || n > maxLimit {
			problems = append(problems,
				fmt.Sprintf("limit: %s, want 1 to %d", Quote(values.Get("limit")), maxLimit))
		}
		page.Limit = n
	}
	if values.Has(cursor) {
		var err error
		if page.From, err = ID(cursor, values.Get(cursor)); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if len(problems) > 0 {
		return page, problems
	}
	return page, nil
}

// Next is the path and query of the part behind the row with the id last: this request's,
// continued.
func Next(r *http.Request, cursor string, last int64) string {
	query := r.URL.Query()
	query.Set(cursor, strconv.FormatInt(last, 10))
	return r.URL.Path + "?" + query.Encode()
}

// maxEcho bounds how much of what a client sent stands in the answer.
const maxEcho = 100

// Quote is the text in quotes, for an error; a long one is cut.
func Quote(text string) string { return strconv.Quote(Short(text)) }

// Short cuts what is too long for an error.
func Short(text string) string {
	if len(text) <= maxEcho {
		return text
	}
	return strings.ToValidUTF8(text[:maxEcho], "") + "…"
}
