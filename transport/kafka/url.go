package kafka

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/cqrsync/cqrsync/internal/address"
	"github.com/cqrsync/cqrsync/transport/internal/options"
)

// known are the options of a URL.
var known = slices.Concat([]string{
	"prefix", "partitions", "replicas", "retention", "compact", "mandatory", "declare",
	"message_bytes", "connections", "window", "confirm_timeout", "connect_timeout", "lease", "name",
	"sasl",
}, options.TLSNames)

// NewConfig reads a URL (see the package documentation) for a queue; a publisher needs none. It
// reports every mistake at once, and never the password.
func NewConfig(rawURL, queue string) (Config, error) {
	if err := address.RequireEscaped(rawURL); err != nil {
		return Config{}, fmt.Errorf("the broker URL: %w", err)
	}
	scheme, rest, found := strings.Cut(rawURL, "://")
	rest, query, _ := strings.Cut(rest, "?")
	if !found || scheme != "kafka" && scheme != "kafkas" || strings.Contains(rest+query, "#") {
		return Config{}, errURL
	}
	config := Config{Queue: queue}
	o := options.Parse(query, known...)
	o.Errs = append(o.Errs, config.readPlace(strings.TrimSuffix(rest, "/"), o.Text("sasl")))
	config.Prefix = o.Text("prefix")
	config.Partitions = o.Number("partitions")
	config.Replicas = o.Number("replicas")
	config.Retention = o.Duration("retention")
	config.Compact = o.Boolean("compact", false)
	config.NoDeclare = !o.Boolean("declare", true)
	config.MessageBytes = o.Number("message_bytes")
	config.DropUnroutable = !o.Boolean("mandatory", true)
	config.Connections = o.Number("connections")
	config.Window = o.Number("window")
	config.ConfirmTimeout = o.Duration("confirm_timeout")
	config.ConnectTimeout = o.Duration("connect_timeout")
	config.Lease = o.Duration("lease")
	config.Name = o.Text("name")
	if scheme == "kafkas" {
		config.TLS = o.TLS("") // each broker has its own name
	} else {
		o.NoTLS("kafkas://")
	}
	if len(config.Brokers) > 0 {
		o.Errs = append(o.Errs, config.withDefaults().validate())
	}
	if err := errors.Join(o.Errs...); err != nil {
		return Config{}, fmt.Errorf("the Kafka configuration: %w", err)
	}
	return config, nil
}

var errURL = errors.New("the broker URL cannot be read: want kafka://user:password@host:9092, or " +
	"several of host:9092 joined by commas, with reserved characters (: / ? # @ %) in user and " +
	"password percent-encoded")

// readPlace reads what stands between the scheme and the options.
func (c *Config) readPlace(place, mechanism string) error {
	user, hosts := "", place
	at := strings.LastIndex(place, "@")
	if at >= 0 {
		user, hosts = place[:at], place[at+1:]
	}
	var brokers []string
	for host := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("kafka://" + host)
		if err != nil || u.Hostname() == "" || u.Path != "" {
			return errURL
		}
		port := u.Port()
		if port == "" {
			port = "9092"
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return errURL
		}
		brokers = append(brokers, net.JoinHostPort(u.Hostname(), port))
	}
	c.Brokers = brokers
	if at < 0 {
		if mechanism != "" {
			return errors.New("URL parameter sasl: the URL has no user and password")
		}
		return nil
	}
	name, password, _ := strings.Cut(user, ":")
	name, err := url.PathUnescape(name)
	password, err2 := url.PathUnescape(password)
	if err != nil || err2 != nil {
		return errURL
	}
	if name == "" || password == "" {
		return errors.New("the broker URL has a user without a password, or the reverse: want " +
			"kafka://user:password@host")
	}
	c.SASL, err = login(mechanism, name, password)
	return err
}

func login(mechanism, user, password string) (sasl.Mechanism, error) {
	switch strings.ToLower(mechanism) {
	case "", "plain":
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
	default:
		return nil, fmt.Errorf("URL parameter sasl=%.40s: want plain, scram-sha-256 or "+
			"scram-sha-512", mechanism)
	}
}
