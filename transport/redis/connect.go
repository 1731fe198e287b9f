package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

// mostConnections is far more than are used at once: when so many attempts to connect have
// failed, the client goes on trying beside its calls, also for a second after it is closed.
const mostConnections = 100

// client returns a client that sends nothing twice.
func (c Config) client(name string, d *socket.Dialer) *goredis.Client {
	o := &goredis.Options{
		Addr: c.Address, Username: c.Username, Password: c.Password, DB: c.Database,
		TLSConfig: c.TLS, ClientName: cmp.Or(c.Name, name),
		PoolSize: mostConnections, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: c.ConnectTimeout, ReadTimeout: c.ConfirmTimeout, WriteTimeout: c.ConfirmTimeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if d != nil {
		o.Dialer = func(_ context.Context, network, address string) (net.Conn, error) {
			conn, err := d.Dial(network, address)
			if err == nil && c.TLS != nil {
				return tls.Client(conn, c.TLS), nil
			}
			return conn, err
		}
	}
	return goredis.NewClient(o)
}

// check refuses a server that would lose messages, or knows too little. It returns what there is to
// warn of.
func check(ctx context.Context, client *goredis.Client) (warning string, err error) {
	text, err := client.Info(ctx, "server", "memory", "persistence").Result()
	if err != nil {
		if code, answered := codeOf(err); answered && code == "NOPERM" {
			return "the user may not ask INFO: whether the server keeps what it has is unknown", nil
		}
		return "", explain(ctx, err)
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	var major int
	version := info["redis_version"]
	if _, err := fmt.Sscanf(version, "%d.", &major); err == nil && major < 7 {
		return "", fmt.Errorf("the Redis server has version %s: want 7.0 or later", version)
	}
	if policy := info["maxmemory_policy"]; strings.HasPrefix(policy, "allkeys") {
		return "", fmt.Errorf("the Redis server drops keys when its memory is full "+
			"(maxmemory-policy %s), and messages with them: want noeviction", policy)
	}
	if info["aof_enabled"] == "0" {
		warning = "the Redis server has no appendonly file: what it holds since its last snapshot is " +
			"lost when it ends"
	}
	return warning, nil
}

// explain returns an error of the server's, or of the way to it. It is transport.ErrUnavailable
// where trying again may help.
func explain(ctx context.Context, err error) error {
	code, answered := codeOf(err)
	switch {
	case err == nil || errors.Is(err, transport.ErrUnavailable):
		return err
	case !answered && ctx.Err() != nil:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, errors.Join(context.Cause(ctx), err))
	case !answered || temporary[code]:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	case code == "NOQUEUE":
		return transport.ErrNoQueue
	case code == "NOPERM":
		return fmt.Errorf("%w: %w", transport.ErrDestination, err)
	case code == "OOM":
		return fmt.Errorf("%w: %w", transport.ErrRejected, err)
	default:
		return err
	}
}

// temporary are the words by which a server says that it cannot now. Of those that begin a refused
// login the operator has to hear, but they say nothing about messages.
var temporary = map[string]bool{
	"LOADING": true, "BUSY": true, "READONLY": true, "MASTERDOWN": true, "CLUSTERDOWN": true,
	"TRYAGAIN": true, "NOREPLICAS": true, "MISCONF": true, "NOSCRIPT": true, "NOAUTH": true,
	"WRONGPASS": true, "MOVED": true, "ASK": true, "UNKILLABLE": true,
}

// codeOf returns the word that an answer of the server's begins with.
func codeOf(err error) (code string, answered bool) {
	var answer goredis.Error
	if !errors.As(err, &answer) || errors.Is(err, goredis.Nil) {
		return "", false
	}
	code, _, _ = strings.Cut(answer.Error(), " ")
	return strings.TrimPrefix(code, "-"), true
}
