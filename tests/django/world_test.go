//go:build unix

package django

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// deployment is the services' surroundings: a broker with names of its own, and databases.
type deployment struct {
	*testing.T
	python, relay    string
	project          string // manage.py
	broker, exchange string
	folder           string
	databases        map[string]string // URLs
	replicas         []string
}

// The databases, by the service that has them. All but shop are replicas; their queues have the
// same names.
const (
	shop   = "shop"   // the master, on PostgreSQL
	rabbit = "rabbit" // a Django worker with RabbitMQTransport
	kombu  = "kombu"  // a Django worker with KombuTransport
	taken  = "taken"  // a Django worker until cqrsync takes over its queue and tables
	file   = "file"   // the same on SQLite
	maria  = "maria"  // the same on MariaDB
	gopher = "gopher" // a Go service with tables of its own
)

func deploy(t *testing.T) deployment {
	d := deployment{
		T: t, python: python(t), relay: program(t, "relay", "../../cmd/relay"), folder: t.TempDir(),
		broker: dbtest.Address(t, dbtest.RabbitMQ), databases: map[string]string{},
	}
	var err error
	d.project, err = filepath.Abs("project/manage.py")
	require.NoError(t, err)
	u, err := url.Parse(d.broker)
	require.NoError(t, err)
	require.Contains(t, []string{"", "/"}, u.Path, "django-cqrs's RabbitMQTransport knows no virtual host")
	d.exchange = fmt.Sprintf("cqrsync_django_%d", time.Now().UnixNano())
	return d
}

func (d deployment) queue(name string) string { return d.exchange + "_" + name }

func (d deployment) brokerURL() string { return d.broker + "?exchange=" + d.exchange }

func (d deployment) channel(do func(*amqp091.Channel) error) error {
	connection, err := amqp091.Dial(d.broker)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }() // the channel's error is the one that matters
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	return do(channel)
}

func (d deployment) clearBroker(names ...string) {
	require.NoError(d, d.channel(func(channel *amqp091.Channel) error {
		for _, name := range names {
			own := d.queue(name)
			for _, queue := range []string{own, "dead_letter_" + own, own + ".database"} {
				if _, err := channel.QueueDelete(queue, false, false, false); err != nil {
					return err
				}
			}
		}
		return channel.ExchangeDelete(d.exchange, false, false)
	}))
}

// awaitConsumer returns when somebody consumes the queue of a replica, which binds it first.
func (d deployment) awaitConsumer(name string, consumers int) {
	d.Helper()
	require.Eventually(d, func() bool {
		found := -1
		err := d.channel(func(channel *amqp091.Channel) error {
			queue, err := channel.QueueDeclarePassive(d.queue(name), true, false, false, false, nil)
			found = queue.Consumers
			return err
		})
		return err == nil && found == consumers
	}, time.Minute, 50*time.Millisecond, "consumers of %s", name)
}

// in is the same in a subtest.
func (d deployment) in(t *testing.T) deployment {
	d.T = t
	return d
}

// variables are those of a Django service at a database.
func (d deployment) variables(service, name string) []string {
	return []string{
		"SERVICE=" + service, "DATABASE=" + d.databases[name], "QUEUE=" + d.queue(name),
		"BROKER=" + d.broker, "EXCHANGE=" + d.exchange, "TRANSPORT=dj_cqrs.transport." + transportOf(name),
	}
}

func transportOf(name string) string {
	if name == kombu {
		return "KombuTransport"
	}
	return "RabbitMQTransport"
}

func (d deployment) manage(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, d.python, append([]string{d.project}, args...)...)
}

// migrate makes Django's tables.
func (d deployment) migrate(service, name string) {
	d.Helper()
	cmd := d.manage(d.Context(), "migrate", "--run-syncdb", "--verbosity", "0")
	cmd.Env = append(os.Environ(), d.variables(service, name)...)
	output, err := cmd.CombinedOutput()
	require.NoError(d, err, "%s", output)
}

// worker starts the Django worker of a replica.
func (d deployment) worker(name string) *process {
	d.Helper()
	ctx := context.WithoutCancel(d.Context())
	return start(d.T, "cqrs_consume of "+name, d.manage(ctx, "cqrs_consume"),
		d.variables("search", name)...)
}

// run runs the relay command to its end, and wants an exit code.
func (d deployment) run(code int, args ...string) string {
	d.Helper()
	cmd := exec.CommandContext(d.Context(), d.relay, args...)
	output, _ := cmd.CombinedOutput() // the exit code says it
	require.Equal(d, code, cmd.ProcessState.ExitCode(), "relay %s: %s", strings.Join(args, " "), output)
	return string(output)
}
