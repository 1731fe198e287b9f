// Package containers starts the services that tests need in containers, where no variable names a
// running one (package internal/dbtest): one per service and process, terminated at its end.
//
//	func TestMain(m *testing.M) { containers.Main(m) }
//
// The images are those of CQRSYNC_TEST_POSTGRES_IMAGE (postgres:17-alpine),
// CQRSYNC_TEST_MARIADB_IMAGE (mariadb:11) and CQRSYNC_TEST_RABBITMQ_IMAGE (rabbitmq:4-alpine).
// Without a Docker engine the tests are skipped, as they are without this package.
//
// It stands under tests/, in a module of its own, so that users of the library do
// not inherit Docker's dependencies.
package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
	"github.com/testcontainers/testcontainers-go/wait"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// startTimeout includes pulling the image.
const startTimeout = 5 * time.Minute

// Main is the whole of a TestMain: it runs the tests, terminates the containers they started, and
// fails if goroutines are left.
func Main(m *testing.M) {
	dbtest.Start = func(t testing.TB, service string) (string, error) {
		return Start(context.WithoutCancel(t.Context()), service) // other tests go on using it
	}
	// The connection to testcontainers' reaper lasts as long as the process: that is
	// how the reaper notices a crash.
	goleak.VerifyTestMain(terminating{m},
		goleak.IgnoreAnyFunction("github.com/testcontainers/testcontainers-go.(*Reaper).connect.func1"))
}

type terminating struct{ *testing.M }

func (m terminating) Run() int {
	code := m.M.Run()
	if err := Terminate(); err != nil {
		fmt.Fprintln(os.Stderr, "terminate containers:", err)
		return 1
	}
	return code
}

// service is a container, or why there is none: a second test need not wait for the same failure.
type service struct {
	container testcontainers.Container
	address   string
	err       error
}

var (
	mu      sync.Mutex
	started = map[string]*service{}
)

// Start returns the address of a service in a container, in the form of the service's
// variable. The first call starts it.
func Start(ctx context.Context, name string) (address string, err error) {
	mu.Lock()
	defer mu.Unlock()
	s := started[name]
	if s == nil {
		s = start(ctx, name)
		started[name] = s
	}
	return s.address, s.err
}

// Terminate removes every container that Start started.
func Terminate() error {
	mu.Lock()
	defer mu.Unlock()
	var errs []error
	for name, s := range started {
		if s.container != nil {
			errs = append(errs, testcontainers.TerminateContainer(s.container))
		}
		delete(started, name)
	}
	return errors.Join(errs...)
}

func start(ctx context.Context, name string) (s *service) {
	s = &service{}
	if s.err = healthy(ctx); s.err != nil {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	switch name {
	case dbtest.Postgres:
		s.postgres(ctx)
	case dbtest.MariaDB:
		s.mariaDB(ctx)
	case dbtest.RabbitMQ:
		s.rabbitMQ(ctx)
	case dbtest.Redis:
		s.redis(ctx)
	default:
		s.err = fmt.Errorf("no container for service %q", name)
	}
	if s.err != nil {
		s.err = fmt.Errorf("start %s in a container: %w", name, s.err)
	}
	return s
}

// healthy says quickly whether there is an engine. testcontainers panics in some
// of the cases where there is none.
func healthy(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil || err != nil {
			err = errors.New("no healthy Docker engine")
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	provider, err := testcontainers.ProviderDefault.GetProvider()
	if err != nil {
		return err
	}
	return provider.Health(ctx)
}

func (s *service) postgres(ctx context.Context) {
	container, err := postgres.Run(ctx, image(dbtest.Postgres, "postgres:17-alpine"),
		postgres.BasicWaitStrategies())
	if container != nil {
		s.container = container
	}
	if s.err = err; err == nil {
		s.address, s.err = container.ConnectionString(ctx, "sslmode=disable")
	}
}

// mariaDB waits for the second start: the image starts the server once
// without a port, to make the database.
func (s *service) mariaDB(ctx context.Context) {
	s.plain(ctx, image(dbtest.MariaDB, "mariadb:11"), "3306/tcp",
		map[string]string{"MARIADB_ROOT_PASSWORD": "cqrsync", "MARIADB_DATABASE": "cqrsync"},
		wait.ForLog("ready for connections").WithOccurrence(2))
	if s.err == nil {
		s.address = "mysql://root:cqrsync@" + s.address + "/cqrsync"
	}
}

// rabbitMQ runs a plain container: testcontainers' own module does not
// compile with this version of it.
func (s *service) rabbitMQ(ctx context.Context) {
	s.plain(ctx, image(dbtest.RabbitMQ, "rabbitmq:4-alpine"), "5672/tcp",
		map[string]string{"RABBITMQ_DEFAULT_USER": "cqrsync", "RABBITMQ_DEFAULT_PASS": "cqrsync"},
		wait.ForLog("Server startup complete"))
	if s.err == nil {
		s.address = "amqp://cqrsync:cqrsync@" + s.address + "/"
	}
}

func (s *service) redis(ctx context.Context) {
	s.plain(ctx, image(dbtest.Redis, "redis:7-alpine"), "6379/tcp", nil,
		wait.ForLog("Ready to accept connections"))
	if s.err == nil {
		s.address = "redis://" + s.address + "/0"
	}
}

// plain runs an image and sets the address to host:port.
func (s *service) plain(
	ctx context.Context, image, port string, environment map[string]string, ready wait.Strategy,
) {
	listening := wait.ForAll(ready, wait.ForListeningPort(port)).WithDeadline(2 * time.Minute)
	container, err := testcontainers.Run(ctx, image, testcontainers.WithEnv(environment),
		testcontainers.WithExposedPorts(port), testcontainers.WithWaitStrategy(listening))
	if container != nil {
		s.container = container
	}
	if s.err = err; err == nil {
		s.address, s.err = container.PortEndpoint(ctx, port, "")
	}
}

func image(service, standard string) string {
	if name := os.Getenv(dbtest.Variable(service) + "_IMAGE"); name != "" {
		return name
	}
	return standard
}
