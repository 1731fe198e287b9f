package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

var writeReadme = flag.Bool("write", false, "write the answers that are open in README.md into it")

// The README's hour happens as it says, on every database.
func TestTheReadmeIsWhatHappens(t *testing.T) {
	t.Parallel()
	kinds := maps.Clone(settingsToTest)
	kinds["MariaDB"] = func(t *testing.T) []string {
		return []string{
			"--orders-db", dbtest.MariaDBURL(t), "--webhooks-db", dbtest.MariaDBURL(t),
			"--stats-db", dbtest.MariaDBURL(t), "--broker", "sqlite://" + t.TempDir() + "/broker.db",
		}
	}
	for kind, places := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			readme := readTranscript(t, "README.md")
			s := &story{t: t, args: places(t), at: time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)}
			s.fronted = s.front()
			_, port, _ := strings.Cut(s.fronted, ":")
			s.args = append(s.args, "--webhooks-allow=127.0.0.1/32", "--webhooks-ports=80,443,"+port)
			given := map[int][2]string{}
			for i, step := range readme.steps {
				status, answer := s.do(step)
				switch {
				case step.isOpen() && *writeReadme:
					given[i] = [2]string{status, answer}
				case !step.matches(status, answer):
					require.FailNow(t, "the README says otherwise", "line %d: %s\n%s\n%s\nis answered %s\n%s",
						step.at+1, step.command, step.status, step.answer, status, answer)
				}
			}
			s.stop()
			if *writeReadme && kind == "SQLite" {
				readme.write(t, "README.md", given)
			}
		})
	}
}

// story is a shop that runs, and a clock of its own.
type story struct {
	t     *testing.T
	args  []string
	urls  map[string]string // as the README has them, and as they are
	queue string            // what stands before the queues' names
	stop  func()

	fronted string // the inbox's address as subscribers have it

	mu    sync.Mutex
	at    time.Time
	inbox string // its address as it is now
}

func (s *story) do(step step) (status, answer string) {
	s.t.Helper()
	switch command := words(s.t, step.command); command[0] {
	case "go":
		return "", s.start()
	case "^C":
		s.stop()
		return "", ""
	case "sleep":
		d, err := time.ParseDuration(command[1])
		require.NoError(s.t, err)
		s.sleep(d)
		return "", ""
	default:
		require.Equal(s.t, "curl", command[0])
		return s.curl(step, command[1:])
	}
}

// timeout is long for a stub on loopback, and short for a test that waits for one that hangs. It is
// not a pause between attempts, so that a delivery on its way can be told from one that waits.
const timeout = 3 * time.Second

// start starts the shop and returns what it prints.
func (s *story) start() (printed string) {
	p := &process{settings: &settings{}, now: s.now, hooks: webhooks.Config{
		Timeout: timeout, Poll: 10 * time.Millisecond,
	}}
	reader, writer := io.Pipe()
	p.out = writer
	parser := &cli.Command{Flags: p.flags(), Action: func(context.Context, *cli.Command) error { return nil }}
	require.NoError(s.t, parser.Run(s.t.Context(), slices.Concat([]string{"orders"}, anyPort, s.args)))
	s.queue = p.queuePrefix
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := p.all(ctx)
		closed := p.close()
		_ = writer.Close()
		if err == nil {
			err = closed
		}
		ended <- err
	}()
	s.stop = sync.OnceFunc(func() {
		stop()
		require.NoError(s.t, <-ended)
	})
	s.t.Cleanup(s.stop)
	var out bytes.Buffer
	for !strings.Contains(out.String(), "Ctrl-C") {
		_, err := io.CopyN(&out, reader, 1)
		require.NoError(s.t, err, "the shop ended: %s", &out)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	s.urls = map[string]string{}
	for line := range strings.SplitSeq(out.String(), "\n") {
		port := map[string]string{"orders": "8081", "webhooks": "8082", "stats": "8083", "inbox": "8084",
			"dashboard": "9465"}
		if name, url, is := strings.Cut(line, " "); is && port[name] != "" {
			s.urls["127.0.0.1:"+port[name]] = hostOf(strings.TrimSpace(url))
		}
	}
	require.Len(s.t, s.urls, 5)
	s.mu.Lock()
	s.inbox = s.urls["127.0.0.1:8084"]
	s.mu.Unlock()
	printed = strings.ReplaceAll(s.asInReadme(out.String()), "\n", "")
	s.urls["127.0.0.1:8084"] = s.fronted
	return printed
}

// asInReadme replaces what differs from run to run.
func (s *story) asInReadme(text string) string {
	for readme, actual := range s.urls {
		text = strings.ReplaceAll(text, actual, readme)
	}
	return strings.ReplaceAll(text, `"queue":"`+s.queue, `"queue":"`)
}

// curl asks until the answer is the README's, if it only looks: what happens in the background
// takes its time.
func (s *story) curl(step step, args []string) (status, answer string) {
	s.t.Helper()
	method, url, body := parseCurl(args)
	for readme, actual := range s.urls {
		url, body = strings.ReplaceAll(url, readme, actual), strings.ReplaceAll(body, readme, actual)
	}
	patience := time.Minute
	if step.isOpen() {
		patience = 4 * time.Second
	}
	for deadline := time.Now().Add(patience); ; {
		code, text := call(s.t, method, "http://"+url, body)
		status, answer = strconv.Itoa(code), s.asInReadme(text)
		done := !step.isOpen() && step.matches(status, answer)
		if done || method != http.MethodGet || time.Now().After(deadline) {
			return status, answer
		}
		s.pause()
	}
}

func parseCurl(args []string) (method, url, body string) {
	method = http.MethodGet
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-X":
			i++
			method = args[i]
		case "-d":
			i++
			body = args[i]
			if method == http.MethodGet {
				method = http.MethodPost
			}
		default:
			url = args[i]
		}
	}
	return method, url, body
}

// pause is a moment between two looks.
func (s *story) pause() { <-time.After(20 * time.Millisecond) }

func (s *story) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// sleep lets time pass, from one attempt that is due to the next.
func (s *story) sleep(d time.Duration) {
	for until := s.now().Add(d); s.now().Before(until); {
		next := until
		for _, at := range s.due() {
			if at.Before(next) {
				next = at
			}
		}
		s.mu.Lock()
		s.at = next
		s.mu.Unlock()
		busy := func(at time.Time) bool { return !at.After(next) }
		for deadline := time.Now().Add(time.Minute); slices.ContainsFunc(s.due(), busy); s.pause() {
			require.True(s.t, time.Now().Before(deadline), "what was due at %s is not delivered: %s", next, s.due())
		}
	}
}

// due are the times of what is pending and waits for nothing before it; but for who hangs, whose
// are due until they are given up.
func (s *story) due() []time.Time {
	url := "http://" + s.urls["127.0.0.1:8082"] + "/deliveries?state=pending&limit=200"
	_, body := call(s.t, http.MethodGet, url, "")
	var list struct {
		Deliveries []struct {
			URL                 string
			Subscription, Order int64
			NextAt              time.Time `json:"next_at"`
		}
	}
	require.NoError(s.t, json.Unmarshal([]byte(body), &list), body)
	oldest := map[[2]int64]time.Time{}
	for _, delivery := range list.Deliveries { // the newest first
		if strings.HasSuffix(delivery.URL, "/hang") {
			continue
		}
		if onItsWay := s.now().Add(3 * timeout); delivery.NextAt.Equal(onItsWay) {
			delivery.NextAt = s.now()
		}
		oldest[[2]int64{delivery.Subscription, delivery.Order}] = delivery.NextAt
	}
	return slices.Collect(maps.Values(oldest))
}

// front stands before the inbox, so that it keeps its address when the shop is started again.
func (s *story) front() (addr string) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			s.mu.Lock()
			defer s.mu.Unlock()
			r.Out.URL.Host = s.inbox
		},
		Transport:     client.Transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // who hangs is cut short
	}
	server := httptest.NewServer(proxy)
	s.t.Cleanup(server.Close)
	return hostOf(server.URL)
}
