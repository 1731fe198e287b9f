package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/examples/orders/demo"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestTheServicesFollowEachOtherInOneProcess(t *testing.T) {
	for name, places := range settingsToTest {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			urls := start(t, append(places(t), "all")...)
			requireStory(t, urls["orders"], urls["webhooks"], urls["stats"], urls["inbox"]+"/inbox")
		})
	}
}

func TestTheServicesFollowEachOtherWhenEachRunsAlone(t *testing.T) {
	for name, places := range settingsToTest {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			subscriber := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusNoContent)
			}))
			t.Cleanup(subscriber.Close)
			at, err := netip.ParseAddrPort(hostOf(subscriber.URL))
			require.NoError(t, err)
			args := append(places(t), "--webhooks-allow", "127.0.0.1/32", "--webhooks-ports", fmt.Sprint(at.Port()))
			alone := func(name string) string { return start(t, append(args, name)...)[name] }
			webhooks, stats := alone("webhooks"), alone("stats")
			for _, service := range []string{webhooks, stats} {
				require.Eventually(t, func() bool {
					status, _ := call(t, http.MethodGet, service+"/ready", "")
					return status == http.StatusNoContent
				}, 20*time.Second, 20*time.Millisecond)
			}
			orders := alone("orders")
			startRelay(t, args)
			requireStory(t, orders, webhooks, stats, subscriber.URL)
		})
	}
}

func TestADemoConverges(t *testing.T) {
	for name, places := range settingsToTest {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := run(t, append(places(t), "demo", "--orders", "200", patient)...)
			require.NoError(t, err, out)
			requireConverged(t, out)
			require.Contains(t, out, "examples/orders/README.md", "what to do next")
		})
	}
}

func TestADemoConvergesAlthoughItsRelayIsKilled(t *testing.T) {
	for name, places := range settingsToTest {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := run(t, append(places(t), "demo", "--orders", "100", "--kill-relay", "2", patient)...)
			require.NoError(t, err, out)
			require.Contains(t, out, "the relay was killed 2 times")
			requireConverged(t, out)
		})
	}
}

func TestADemoDrivesServicesThatRunElsewhere(t *testing.T) {
	t.Parallel()
	args := []string{"--dir", t.TempDir()}
	urls := start(t, append(args, "all")...)
	out, err := run(t, append(args, "--webhooks-addr", hostOf(urls["webhooks"]), "--stats-addr", hostOf(urls["stats"]),
		"demo", "--drive-only", "--orders", "50", patient)...)
	require.NoError(t, err, out)
	requireConverged(t, out)
}

func TestADemoThatDoesNotConvergeSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	args := []string{"--dir", t.TempDir()}
	out, err := run(t, append(args, "demo", "--orders", "30", patient)...)
	require.NoError(t, err, out)
	// With a new database Stats lacks what was written before.
	out, err = run(t, append(args, "--stats-db", dbtest.SQLiteURL(t), "demo", "--orders", "1", "--timeout", "100ms")...)
	require.ErrorContains(t, err, "the replicas differ from the master after --timeout 100ms")
	require.Regexp(t, `stats: order \d+ is missing`, out)
	require.Equal(t, 10, strings.Count(out, "is missing"), "the first ten")
	require.NotContains(t, out, "converged")
}

func TestAnInterruptedDemoIsAnError(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := newCommand(writer, io.Discard).Run(ctx, []string{"orders", "--dir", t.TempDir(), "demo", "--orders", "1000000"})
		_ = writer.Close()
		ended <- err
	}()
	lines := bufio.NewScanner(reader)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "writing 1000000 orders") {
	}
	require.NoError(t, lines.Err())
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	stop()
	require.ErrorIs(t, <-ended, errInterrupted)
}

func TestTemporaryFilesAreRemovedAndOthersKept(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	out, err := run(t, "demo", "--orders", "5", patient)
	require.NoError(t, err, out)
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left)

	kept := t.TempDir()
	out, err = run(t, "--dir", kept, "demo", "--orders", "5", patient)
	require.NoError(t, err, out)
	for _, file := range []string{"orders.db", "webhooks.db", "stats.db", "broker.db"} {
		require.FileExists(t, kept+"/"+file)
	}
}

func TestWrongSettingsAreReportedAllAtOnce(t *testing.T) {
	t.Parallel()
	out, err := run(t, "--orders-db", "mysql://user:secret@host/db", "--broker", "carrier-pigeon://user:secret@coop", "all")
	require.ErrorContains(t, err, "--orders-db: ")
	require.ErrorContains(t, err, "--broker: ")
	require.NotContains(t, out+err.Error(), "secret")

	_, err = run(t, "dmeo")
	require.ErrorContains(t, err, `"dmeo" is not a command, see --help`)

	_, err = run(t, "--webhooks-allow", "10.1.0.0/16,10.2.0.1", "--webhooks-ports", "443,0,x", "all")
	require.ErrorContains(t, err, `--webhooks-allow: "10.2.0.1" is not a network, want one like 10.1.0.0/16`)
	require.ErrorContains(t, err, `--webhooks-ports: "0" is not a port, want 1 to 65535`)
	require.ErrorContains(t, err, `--webhooks-ports: "x" is not a port, want 1 to 65535`)

	_, err = run(t, "webhooks")
	require.ErrorContains(t, err, "--webhooks-db is missing")
	require.ErrorContains(t, err, "--broker is missing")

	_, err = run(t, "--broker", "memory:", "demo", "--kill-relay", "1")
	require.ErrorContains(t, err, "--broker memory:: other processes cannot reach it")

	_, err = run(t, "demo", "--orders", "0", "--writers", "-1", "--timeout", "0s", "--kill-relay", "-1")
	for _, flag := range []string{"--orders", "--writers", "--timeout", "--kill-relay"} {
		require.ErrorContains(t, err, flag)
	}
}

// settingsToTest are what every story is told on: the embedded default, and real servers where there are some.
var settingsToTest = map[string]func(*testing.T) []string{
	"SQLite": func(t *testing.T) []string {
		return []string{"--dir", t.TempDir()}
	},
	"PostgreSQL and RabbitMQ": func(t *testing.T) []string {
		broker, prefix := rabbitMQ(t)
		return []string{
			"--orders-db", dbtest.PostgresURL(t), "--webhooks-db", dbtest.PostgresURL(t),
			"--stats-db", dbtest.PostgresURL(t), "--broker", broker, "--queue-prefix", prefix,
		}
	},
}

// rabbitMQ returns the URL of an exchange and a prefix of queues that the test has to itself.
func rabbitMQ(t *testing.T) (broker, prefix string) {
	address := dbtest.Address(t, dbtest.RabbitMQ)
	prefix = fmt.Sprintf("cqrsync_test_%d_%d_", os.Getpid(), time.Now().UnixNano())
	exchange := prefix + "exchange"
	t.Cleanup(func() {
		connection, err := amqp091.Dial(address)
		require.NoError(t, err)
		defer func() { require.NoError(t, connection.Close()) }()
		channel, err := connection.Channel()
		require.NoError(t, err)
		for _, queue := range []string{"webhooks", "stats"} {
			for _, name := range []string{prefix + queue, "dead_letter_" + prefix + queue, prefix + queue + ".database"} {
				_, err := channel.QueueDelete(name, false, false, false)
				require.NoError(t, err)
			}
		}
		require.NoError(t, channel.ExchangeDelete(exchange, false, false))
	})
	u, err := url.Parse(address)
	require.NoError(t, err)
	query := u.Query()
	query.Set("exchange", exchange)
	u.RawQuery = query.Encode()
	return u.String(), prefix
}

// patient keeps a slow machine from failing a test.
const patient = "--timeout=10m"

var anyPort = []string{"--orders-addr=127.0.0.1:0", "--webhooks-addr=127.0.0.1:0", "--stats-addr=127.0.0.1:0", "--inbox-addr=127.0.0.1:0",
	"--dashboard-addr=127.0.0.1:0"}

// run runs the program to its end.
func run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var both bytes.Buffer
	err = newCommand(&both, &both).Run(t.Context(), append([]string{"orders"}, args...))
	return both.String(), err
}

// start runs the program until the test ends, and returns the URLs that it prints.
func start(t *testing.T, args ...string) map[string]string {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := newCommand(writer, io.Discard).Run(ctx, append(append([]string{"orders"}, anyPort...), args...))
		_ = writer.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	urls := map[string]string{}
	lines := bufio.NewScanner(reader)
	last := args[len(args)-1]
	for lines.Scan() {
		name, url, _ := strings.Cut(lines.Text(), " ")
		if url = strings.TrimSpace(url); strings.HasPrefix(url, "http://") {
			urls[name] = url
		}
		if urls[last] != "" || strings.HasPrefix(lines.Text(), "Ctrl-C") {
			go func() { _, _ = io.Copy(io.Discard, reader) }() // the program may go on talking
			return urls
		}
	}
	require.FailNow(t, "the program ended", "%v", lines.Err())
	return nil
}

// requireStory is what the program asks to try: subscribe, order, look.
func requireStory(t *testing.T, orders, webhooks, stats, subscriber string) {
	t.Helper()
	for _, service := range []string{orders, webhooks, stats} {
		status, body := call(t, http.MethodGet, service+"/ready", "")
		require.Equal(t, http.StatusNoContent, status, body)
	}
	status, body := call(t, http.MethodPost, webhooks+"/subscriptions", fmt.Sprintf(`{"url": %q}`, subscriber))
	require.Equal(t, http.StatusCreated, status, body)
	status, body = call(t, http.MethodPost, orders+"/orders",
		`{"customer": "Ada", "lines": [{"sku": "book", "quantity": 2, "price": 1250}]}`)
	require.Equal(t, http.StatusCreated, status, body)
	day := time.Now().UTC()
	query := fmt.Sprintf("/stats/orders?from=%s&to=%s", day.AddDate(0, 0, -1).Format(time.DateOnly), day.AddDate(0, 0, 1).Format(time.DateOnly))
	eventually(t, stats+query, `"by_status":{"new":{"orders":1,"total":2500}}`)
	eventually(t, webhooks+"/deliveries?order=1", `"status_code":204`)
}

func eventually(t *testing.T, url, want string) {
	t.Helper()
	var body string
	defer func() {
		if t.Failed() {
			t.Log(url, body)
		}
	}()
	require.Eventually(t, func() bool {
		_, body = call(t, http.MethodGet, url, "")
		return strings.Contains(body, want)
	}, 30*time.Second, 20*time.Millisecond)
}

func call(t *testing.T, method, url, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	response, err := client.Do(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

// client keeps no connections: an open one would make a service's stop wait.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// hostOf is the address in a URL.
func hostOf(url string) string { return strings.TrimPrefix(url, "http://") }

var converged = regexp.MustCompile(`(?m)^converged: orders=(\d+) webhooks=(\d+) stats=(\d+) in \S+s\n(next:|\z)`)

func requireConverged(t *testing.T, out string) {
	t.Helper()
	counts := converged.FindStringSubmatch(out)
	require.NotNil(t, counts, out)
	require.NotEqual(t, "0", counts[1])
	require.Equal(t, counts[1], counts[2])
	require.Equal(t, counts[1], counts[3])
}

// startRelay runs the relay, in a process of its own, until the test ends.
func startRelay(t *testing.T, args []string) {
	t.Helper()
	p := &process{settings: &settings{}}
	parser := &cli.Command{Flags: p.flags(), Action: func(context.Context, *cli.Command) error { return nil }}
	require.NoError(t, parser.Run(t.Context(), append([]string{"orders"}, args...)))
	ordersDB, _, _, broker := p.places()
	require.NoError(t, p.shared(ordersDB, broker))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- demo.NewRelayProcess(p.relayCommand).Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
}

// TestADemoStaysWhereItIs: what stands in the shell for a real service or relay does not lead the demo there.
func TestADemoStaysWhereItIs(t *testing.T) {
	for _, name := range []string{
		"CQRSYNC_DB", "CQRSYNC_MASTER_DB", "CQRSYNC_REPLICA_DB", "CQRSYNC_LISTEN_DB", "CQRSYNC_BROKER", "CQRSYNC_QUEUE",
		"CQRSYNC_CONFIG", "CQRSYNC_SCHEMA", "CQRSYNC_TABLE_PREFIX", "ORDERS_DB", "WEBHOOKS_DB", "STATS_DB",
	} {
		t.Setenv(name, "amqp://nobody:s3cret@127.0.0.1:1/")
	}
	for _, more := range [][]string{{}, {"--kill-relay", "1"}} {
		dir := t.TempDir()
		out, err := run(t, append([]string{"--dir", dir, "demo", "--orders", "50", patient}, more...)...)
		require.NoError(t, err, out)
		requireConverged(t, out)
		require.True(t, strings.HasPrefix(out, fmt.Sprintf(
			"orders-db    sqlite://%[1]s/orders.db\nwebhooks-db  sqlite://%[1]s/webhooks.db\n"+
				"stats-db     sqlite://%[1]s/stats.db\nbroker       sqlite://%[1]s/broker.db\n", dir)), out)
	}
}
