package redis

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/internal/address"
	"github.com/cqrsync/cqrsync/transport/internal/options"
)

// known are the options of a URL.
var known = []string{
	"prefix", "mandatory", "connections", "window", "confirm_timeout", "connect_timeout", "lease",
	"name", "cacertfile", "certfile", "keyfile",
}

// NewConfig reads a URL (see the package documentation) for a queue; a publisher needs none. It
// reports every mistake at once, and never the password.
func NewConfig(rawURL, queue string) (Config, error) {
	if err := address.RequireEscaped(rawURL); err != nil {
		return Config{}, fmt.Errorf("the broker URL: %w", err)
	}
	place, query, _ := strings.Cut(rawURL, "?")
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" ||
		u.Fragment != "" || strings.Contains(query, "#") {
		return Config{}, errURL // the parser's own message quotes the URL, and with it the password
	}
	config := Config{Queue: queue}
	o := options.Parse(query, known...)
	o.Errs = append(o.Errs, config.readPlace(u))
	config.Prefix = o.Text("prefix")
	config.DropUnroutable = !o.Boolean("mandatory", true)
	config.Connections = o.Number("connections")
	config.Window = o.Number("window")
	config.ConfirmTimeout = o.Duration("confirm_timeout")
	config.ConnectTimeout = o.Duration("connect_timeout")
	config.Lease = o.Duration("lease")
	config.Name = o.Text("name")
	if u.Scheme == "rediss" {
		config.TLS = o.TLS(u.Hostname())
	} else {
		o.NoTLS("rediss://")
	}
	o.Errs = append(o.Errs, config.withDefaults().validate())
	if err := errors.Join(o.Errs...); err != nil {
		return Config{}, fmt.Errorf("the Redis configuration: %w", err)
	}
	return config, nil
}

var errURL = errors.New("the broker URL cannot be read: want redis://user:password@host:6379/0, " +
	"with reserved characters (: / ? # @ %) in user and password percent-encoded")

// readPlace reads what stands before the options.
func (c *Config) readPlace(u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return errURL
	}
	c.Address = net.JoinHostPort(u.Hostname(), port)
	if u.User != nil {
		c.Username = u.User.Username()
		c.Password, _ = u.User.Password()
		if c.Password == "" {
			return errors.New("the broker URL has a user without a password: want " +
				"redis://user:password@host, or redis://:password@host")
		}
	}
	number := strings.Trim(u.Path, "/")
	if number == "" {
		return nil
	}
	database, err := strconv.Atoi(number)
	if err != nil || database < 0 {
		return fmt.Errorf("the broker URL has the database %.20q: want its number, 0 or more", number)
	}
	c.Database = database
	return nil
}
