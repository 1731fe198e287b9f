package nats

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/internal/address"
	"github.com/cqrsync/cqrsync/transport/internal/options"
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
	config := Config{Queue: queue}
	o := options.Parse(query, known...)
	o.Errs = append(o.Errs, config.readPlace(strings.TrimSuffix(rest, "/")))
	config.Stream = o.Text("stream")
	config.Replicas = o.Number("replicas")
	config.MaxBytes = int64(o.Number("max_bytes"))
	config.DropUnroutable = !o.Boolean("mandatory", true)
	config.NoDeclare = !o.Boolean("declare", true)
	config.Connections = o.Number("connections")
	config.Window = o.Number("window")
	config.ConfirmTimeout = o.Duration("confirm_timeout")
	config.ConnectTimeout = o.Duration("connect_timeout")
	config.AckWait = o.Duration("ack_wait")
	config.Name = o.Text("name")
	config.Connect = append(config.Connect, security(o)...)
	if len(config.Servers) > 0 {
		o.Errs = append(o.Errs, config.withDefaults().validate())
	}
	if err := errors.Join(o.Errs...); err != nil {
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

// security reads the options of TLS and authentication.
func security(o *options.Options) (connect []natsgo.Option) {
	if o.Boolean("tls", false) {
		connect = append(connect, natsgo.Secure())
	}
	if ca := o.File("cacertfile"); ca != "" {
		connect = append(connect, natsgo.RootCAs(ca))
	}
	certificate, key := o.File("certfile"), o.File("keyfile")
	switch {
	case certificate != "" && key != "":
		connect = append(connect, natsgo.ClientCert(certificate, key))
	case certificate != "" || key != "":
		o.Errs = append(o.Errs, errors.New("URL parameters certfile and keyfile: want both"))
	}
	credentials, seed := o.File("creds"), o.Text("nkey")
	if credentials != "" && seed != "" {
		o.Errs = append(o.Errs, errors.New("URL parameters creds and nkey: want one"))
	}
	if credentials != "" {
		connect = append(connect, natsgo.UserCredentials(credentials))
	}
	if seed != "" {
		option, err := natsgo.NkeyOptionFromSeed(seed)
		if err != nil { // what it says may be of the seed
			err = errors.New("URL parameter nkey: want the path of a file with a user's seed")
			o.Errs = append(o.Errs, err)
			return connect
		}
		connect = append(connect, option)
	}
	return connect
}
