package nats

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

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/internal/address"
)

// NewConfig reads a URL (see the package documentation) for a queue; a publisher needs none. It
// reports every mistake at once, and never the password.
func NewConfig(rawURL, queue string) (Config, error) {
	if err := address.RequireEscaped(rawURL); err != nil {
		return Config{}, fmt.Errorf("the broker URL: %w", err)
	}
	rest, found := strings.CutPrefix(rawURL, "nats://")
	rest, query, _ := strings.Cut(rest, "?")
	if !found || strings.Contains(rest, "#") {
		return Config{}, errURL
	}
	given, err := url.ParseQuery(query)
	if err != nil {
		return Config{}, errors.New("NATS configuration: the URL parameters cannot be read: want " +
			"name=value, joined by &, with % written as %25")
	}
	config := Config{Queue: queue}
	o := options{given: given}
	o.errs = append(o.errs, config.readPlace(strings.TrimSuffix(rest, "/")))
	config.Stream = o.text("stream")
	config.Replicas = o.number("replicas")
	config.MaxBytes = int64(o.number("max_bytes"))
	config.DropUnroutable = !o.boolean("mandatory", true)
	config.NoDeclare = !o.boolean("declare", true)
	config.Connections = o.number("connections")
	config.Window = o.number("window")
	config.ConfirmTimeout = o.duration("confirm_timeout")
	config.ConnectTimeout = o.duration("connect_timeout")
	config.AckWait = o.duration("ack_wait")
	config.Name = o.text("name")
	config.Connect = append(config.Connect, o.security()...)
	o.refuseOthers()
	if len(config.Servers) > 0 {
		o.errs = append(o.errs, config.withDefaults().validate())
	}
	if err := errors.Join(o.errs...); err != nil {
		return Config{}, fmt.Errorf("NATS configuration: %w", err)
	}
	return config, nil
}

var errURL = errors.New("the broker URL cannot be read: want nats://user:password@host:4222, or " +
	"several of host:4222 joined by commas, with reserved characters (: / ? # @ %) in user and " +
	"password percent-encoded")

// readPlace reads what stands between the scheme and the options.
func (c *Config) readPlace(place string) error {
	user, hosts := "", place
	if at := strings.LastIndex(place, "@"); at >= 0 {
		user, hosts = place[:at], place[at+1:]
	}
	for host := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("nats://" + host)
		if err != nil || u.Hostname() == "" || u.Path != "" {
			return errURL
		}
		if port := u.Port(); port != "" {
			if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
				return errURL
			}
		}
		c.Servers = append(c.Servers, u.String())
	}
	if user == "" {
		return nil
	}
	name, password, hasPassword := strings.Cut(user, ":")
	name, err := url.PathUnescape(name)
	password, err2 := url.PathUnescape(password)
	switch {
	case err != nil || err2 != nil:
		return errURL
	case hasPassword:
		c.Connect = append(c.Connect, natsgo.UserInfo(name, password))
	default:
		c.Connect = append(c.Connect, natsgo.Token(name))
	}
	return nil
}

// known are the options of a URL.
var known = []string{
	"stream", "replicas", "max_bytes", "mandatory", "declare", "connections", "window",
	"confirm_timeout", "connect_timeout", "ack_wait", "name", "tls", "cacertfile", "certfile",
	"keyfile", "creds", "nkey",
}

// options takes the parameters out of a URL's query, and collects what is wrong with them.
type options struct {
	given url.Values
	errs  []error
}

func (o *options) refuseOthers() {
	for _, name := range slices.Sorted(maps.Keys(o.given)) {
		if !slices.Contains(known, name) {
			o.errs = append(o.errs, fmt.Errorf("unknown URL parameter %.40q: want %s", name,
				strings.Join(known, ", ")))
		}
	}
}

func (o *options) text(name string) string { return o.given.Get(name) }

func (o *options) wrong(name, value, want string) {
	o.errs = append(o.errs, fmt.Errorf("URL parameter %s=%.40s: want %s", name, value, want))
}

func (o *options) boolean(name string, standard bool) bool {
	text := o.text(name)
	if text == "" {
		return standard
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		o.wrong(name, text, "true or false")
	}
	return value
}

func (o *options) number(name string) int {
	text := o.text(name)
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

func (o *options) duration(name string) time.Duration {
	text := o.text(name)
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

// file returns the path of a file that can be read.
func (o *options) file(name string) string {
	path := o.text(name)
	if path == "" {
		return ""
	}
	f, err := os.Open(path) //nolint:gosec // the operator names it
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		o.errs = append(o.errs, fmt.Errorf("URL parameter %s: %w", name, err))
	}
	return path
}

// security reads the options of TLS and authentication.
func (o *options) security() (connect []natsgo.Option) {
	if o.boolean("tls", false) {
		connect = append(connect, natsgo.Secure())
	}
	if ca := o.file("cacertfile"); ca != "" {
		connect = append(connect, natsgo.RootCAs(ca))
	}
	certificate, key := o.file("certfile"), o.file("keyfile")
	switch {
	case certificate != "" && key != "":
		connect = append(connect, natsgo.ClientCert(certificate, key))
	case certificate != "" || key != "":
		o.errs = append(o.errs, errors.New("URL parameters certfile and keyfile: want both"))
	}
	credentials, seed := o.file("creds"), o.text("nkey")
	if credentials != "" && seed != "" {
		o.errs = append(o.errs, errors.New("URL parameters creds and nkey: want one"))
	}
	if credentials != "" {
		connect = append(connect, natsgo.UserCredentials(credentials))
	}
	if seed != "" {
		option, err := natsgo.NkeyOptionFromSeed(seed)
		if err != nil { // what it says may be of the seed
			err = errors.New("URL parameter nkey: want the path of a file with a user's seed")
			o.errs = append(o.errs, err)
			return connect
		}
		connect = append(connect, option)
	}
	return connect
}
