package transports_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

// The test binary, started with a role, is another process at the same SQLite file. It writes one word per line.
const (
	roleVariable = "CQRSYNC_TEST_ROLE"
	fileVariable = "CQRSYNC_TEST_FILE"
	nameVariable = "CQRSYNC_TEST_NAME"

	rolePublish = "publish" // messages called NAME-0, NAME-1, …, as many as perPublisher
	roleConsume = "consume" // writes down what it gets and acknowledges it, until its input ends
	roleHold    = "hold"    // writes down what it gets and keeps it

	perPublisher  = 200
	processWindow = 10
	sharedQueue   = "webhooks"
	sharedTopic   = "order"
)

func play(role string) int {
	config := processConfig(os.Getenv(fileVariable))
	var err error
	switch role {
	case roleReplica:
		err = playReplica()
	case rolePublish:
		err = playPublisher(config, os.Getenv(nameVariable))
	default:
		err = playConsumer(config, role == roleConsume)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		return 1
	}
	return 0
}

func processConfig(path string) sqlite.Config {
	return sqlite.Config{Path: path, Queue: sharedQueue, Lease: time.Second}
}

func playPublisher(config sqlite.Config, name string) error {
	pub, err := sqlite.NewPublisher(config)
	if err != nil {
		return err
	}
	for ids := range slices.Chunk(publishedBy(name), 10) {
		var batch []transport.Outgoing
		for _, id := range ids {
			batch = append(batch, transport.Outgoing{Topic: sharedTopic, Message: message.NewMessage(id, nil)})
		}
		for _, err := range pub.PublishBatch(context.Background(), batch) {
			if err != nil {
				return err
			}
		}
	}
	return pub.Close()
}

func publishedBy(names ...string) (ids []string) {
	for _, name := range names {
		for i := range perPublisher {
			ids = append(ids, name+"-"+strconv.Itoa(i))
		}
	}
	return ids
}

func playConsumer(config sqlite.Config, ack bool) error {
	sub, err := sqlite.NewSubscriber(config)
	if err != nil {
		return err
	}
	messages, err := sub.SubscribeWindow(context.Background(), sharedTopic, processWindow)
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	for {
		select {
		case msg := <-messages:
			fmt.Println(msg.UUID)
			if ack {
				msg.Ack()
			}
		case err := <-ended:
			if err != nil {
				return err
			}
			return sub.Close()
		}
	}
}

// process is one that plays a role.
type process struct {
	*exec.Cmd
	stdin io.Closer
	lines chan string // closed when the process has ended
}

func start(t *testing.T, path, role, name string) *process {
	t.Helper()
	p := &process{Cmd: exec.CommandContext(t.Context(), os.Args[0]), lines: make(chan string, 10*perPublisher)}
	p.Env = append(os.Environ(), roleVariable+"="+role, fileVariable+"="+path, nameVariable+"="+name)
	p.Stderr = os.Stderr
	var err error
	p.stdin, err = p.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.lines <- lines.Text()
		}
	})
	t.Cleanup(reading.Wait) // the test's context ends the process before that
	return p
}

// next is the next n lines.
func (p *process) next(t *testing.T, n int) (got []string) {
	t.Helper()
	for len(got) < n {
		select {
		case line, open := <-p.lines:
			require.True(t, open, "the process has ended")
			got = append(got, line)
		case <-time.After(patience):
			require.FailNow(t, "the process says nothing")
		}
	}
	return got
}

// rest waits for the end of the process and returns the remaining lines.
func (p *process) rest() (got []string) {
	for line := range p.lines {
		got = append(got, line)
	}
	return got
}

func (p *process) finish(t *testing.T) []string {
	t.Helper()
	require.NoError(t, p.stdin.Close())
	rest := p.rest()
	require.NoError(t, p.Wait())
	return rest
}

func (p *process) kill(t *testing.T) []string {
	t.Helper()
	require.NoError(t, p.Process.Kill())
	rest := p.rest()
	require.Error(t, p.Wait())
	return rest
}

func TestSQLiteCarriesMessagesBetweenProcesses(t *testing.T) {
	t.Parallel()
	path := newQueue(t)
	start(t, path, rolePublish, "a").finish(t)
	victim := start(t, path, roleConsume, "")
	got := victim.next(t, 20)
	survivor, pub := start(t, path, roleConsume, ""), start(t, path, rolePublish, "b")
	got = append(got, victim.kill(t)...)
	pub.finish(t)

	missing := map[string]bool{}
	for _, id := range publishedBy("a", "b") {
		missing[id] = true
	}
	for _, id := range got {
		delete(missing, id)
	}
	for len(missing) > 0 {
		delete(missing, survivor.next(t, 1)[0])
	}
	survivor.finish(t)
}

func TestSQLiteGivesBackWhatAKilledProcessHeld(t *testing.T) {
	t.Parallel()
	path := newQueue(t)
	start(t, path, rolePublish, "a").finish(t)
	victim := start(t, path, roleHold, "")
	require.Equal(t, publishedBy("a")[:processWindow], victim.next(t, processWindow))
	require.Empty(t, victim.kill(t))

	messages, err := sqliteSubscriber(t, processConfig(path)).SubscribeWindow(t.Context(), sharedTopic, 20)
	require.NoError(t, err)
	require.ElementsMatch(t, publishedBy("a"), acked(t, messages, perPublisher))
	silent(t, messages)
}

func TestSQLiteFileIsMadeByManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "broker.db")
	var processes []*process
	for i := range 4 {
		processes = append(processes,
			start(t, path, roleConsume, ""), start(t, path, rolePublish, strconv.Itoa(i)))
	}
	for _, p := range processes {
		p.finish(t)
	}
	config := processConfig(path)
	config.Mandatory = true
	require.NoError(t, sqlitePublisher(t, config).Publish(sharedTopic, message.NewMessage("last", nil)))
	messages, err := sqliteSubscriber(t, config).Subscribe(t.Context(), sharedTopic)
	require.NoError(t, err)
	for acked(t, messages, 1)[0] != "last" { // before it comes what the consumers left
	}
}

func newQueue(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "broker.db")
	sub := sqliteSubscriber(t, processConfig(path))
	require.NoError(t, sub.SubscribeInitialize(sharedTopic))
	require.NoError(t, sub.Close())
	return path
}
