// Package options reads the options of a broker's URL, and collects everything that is wrong with
// them.
//
// Neighbours: the transports with a module of their own read theirs here.
package options

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are the parameters of a URL. One that is not given is zero.
type Options struct {
	Errs []error // what is wrong with them

	given url.Values
}

// Parse reads a URL's query, in which only known names may stand.
func Parse(query string, known ...string) *Options {
	o := &Options{}
	var err error
	if o.given, err = url.ParseQuery(query); err != nil {
		o.Errs = append(o.Errs, errors.New("the URL parameters cannot be read: want name=value, "+
			"joined by &, with % written as %25"))
		o.given = nil
	}
	for _, name := range slices.Sorted(maps.Keys(o.given)) {
		if !slices.Contains(known, name) {
			o.Errs = append(o.Errs, fmt.Errorf("unknown URL parameter %.40q: want %s", name,
				strings.Join(known, ", ")))
		}
	}
	return o
}

// Text returns a parameter as it is.
func (o *Options) Text(name string) string { return o.given.Get(name) }

func (o *Options) wrong(name, value, want string) {
	o.Errs = append(o.Errs, fmt.Errorf("URL parameter %s=%.40s: want %s", name, value, want))
}

// Boolean returns true or false, and standard where it is not given.
func (o *Options) Boolean(name string, standard bool) bool {
	text := o.Text(name)
	if text == "" {
		return standard
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		o.wrong(name, text, "true or false")
	}
	return value
}

// Number returns a positive number.
func (o *Options) Number(name string) int {
	text := o.Text(name)
	if text == "" {
		return 0
	}
	value, err := strconv.Atoi(text)
	if err != nil || value <= 0 {
		o.wrong(name, text, "a positive number")
		return 0
	}
	return value
}

// Duration returns a positive duration.
func (o *Options) Duration(name string) time.Duration {
	text := o.Text(name)
	if text == "" {
		return 0
	}
	value, err := time.ParseDuration(text)
	if err != nil || value <= 0 {
		o.wrong(name, text, "a positive duration such as 30s")
		return 0
	}
	return value
}

// File returns the path of a file that can be read.
func (o *Options) File(name string) string {
	path := o.Text(name)
	if path == "" {
		return ""
	}
	f, err := os.Open(path) //nolint:gosec // the operator names it
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		o.Errs = append(o.Errs, fmt.Errorf("URL parameter %s: %w", name, err))
	}
	return path
}
