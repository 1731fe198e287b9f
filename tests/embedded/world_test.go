//go:build unix

package embedded

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// patience is for what has to come on a machine that does other things.
const patience = 2 * time.Minute

// world is a folder with the files of a master and its replicas, and the processes on them.
type world struct {
	t         *testing.T
	folder    string
	broker    string // the file
	options   string // of the broker's URL
	rate      int
	committed atomic.Int64

	mu  sync.Mutex
	log bytes.Buffer
}

func newWorld(t *testing.T, replicas ...string) *world {
	t.Helper()
	w := &world{t: t, folder: t.TempDir(), rate: 100}
	w.broker = filepath.Join(w.folder, "broker.db")
	db := w.create(masterURL(w.folder))
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	require.NoError(t, db.Close())
	for _, name := range replicas {
		db := w.create(replicaURL(w.folder, name))
		rep, err := replica.New(db, replica.Config{Queue: name})
		require.NoError(t, err)
		require.NoError(t, rep.Migrate(t.Context()))
		require.NoError(t, db.Close())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", w.said())
		}
	})
	return w
}

func (w *world) create(url string) *bun.DB {
	w.t.Helper()
	db, err := database.Open(url)
	require.NoError(w.t, err)
	_, err = db.ExecContext(w.t.Context(), "CREATE TABLE items (id integer PRIMARY KEY, n integer NOT NULL, text text NOT NULL)")
	require.NoError(w.t, err)
	return db
}

// Write takes what processes say to their standard error.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// hears waits until some process has said something.
func (w *world) hears(text string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return strings.Contains(w.said(), text) }, patience, 20*time.Millisecond, text)
}

// process is one of a role.
type process struct {
	w       *world
	command *exec.Cmd
	running chan struct{} // closed when a replica has its queue
	ended   chan struct{}
}

// start starts one, and ends it with the test.
func (w *world) start(role string) *process {
	w.t.Helper()
	path, err := os.Executable()
	require.NoError(w.t, err)
	p := &process{w: w, command: exec.Command(path), running: make(chan struct{}), ended: make(chan struct{})}
	p.command.Env = append(os.Environ(), roleVariable+"="+role, folderVariable+"="+w.folder,
		brokerVariable+"=sqlite://"+w.broker+w.options, rateVariable+"="+strconv.Itoa(w.rate))
	p.command.Stderr = w
	stdout, err := p.command.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, p.command.Start())
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			switch lines.Text() {
			case "committed":
				w.committed.Add(1)
			case "running":
				close(p.running)
			}
		}
		_ = p.command.Wait() // of one that is killed
	}()
	w.t.Cleanup(p.kill)
	return p
}

// replicates starts a replica and waits for its queue.
func (w *world) replicates(name string) *process {
	w.t.Helper()
	p := w.start(name)
	select {
	case <-p.running:
	case <-p.ended:
		require.FailNow(w.t, "the replica ended", w.said())
	case <-time.After(patience):
		require.FailNow(w.t, "the replica does not run", w.said())
	}
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.command.Process.Signal(s) } // it may have ended

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// stop ends it as an operator does.
func (p *process) stop() {
	p.w.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.kill()
		require.FailNow(p.w.t, "a process did not end with SIGTERM")
	}
}

// hasEnded says so of a process that nobody ended.
func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// writes lets a number of transactions commit.
func (w *world) writes(n int64) {
	w.t.Helper()
	until := w.committed.Load() + n
	require.Eventually(w.t, func() bool { return w.committed.Load() >= until }, patience, 10*time.Millisecond, "writes")
}

// rows reads a table of items.
func (w *world) rows(url string) map[int64]Copy {
	w.t.Helper()
	db, err := database.Open(url + "?mode=ro")
	require.NoError(w.t, err)
	defer db.Close()
	var list []Copy
	require.NoError(w.t, db.NewSelect().Model(&list).Scan(w.t.Context()))
	rows := map[int64]Copy{}
	for _, row := range list {
		rows[row.ID] = row
	}
	return rows
}

func (w *world) equal(name string) bool {
	return maps.Equal(w.rows(masterURL(w.folder)), w.rows(replicaURL(w.folder, name)))
}

// becomesEqual waits until a replica is, while nobody writes.
func (w *world) becomesEqual(name string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.equal(name) }, patience, 50*time.Millisecond, "%s is not equal", name)
	require.NotEmpty(w.t, w.rows(masterURL(w.folder)))
}

// unsent counts the messages in the outbox.
func (w *world) unsent() (n int) {
	w.t.Helper()
	db := dbtest.Open(w.t, masterURL(w.folder)+"?mode=ro")
	require.NoError(w.t, db.NewRaw("SELECT count(*) FROM outbox_messages").Scan(w.t.Context(), &n))
	return n
}

// repair compares a replica with the master and sends again what differs.
func (w *world) repair(name string) operate.Result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	master, box, err := openBox(ctx, masterURL(w.folder))
	require.NoError(w.t, err)
	defer master.Close()
	db, rep, err := openReplica(replicaURL(w.folder, name), name, slog.New(slog.DiscardHandler))
	require.NoError(w.t, err)
	defer db.Close()
	result, err := operate.Diff(ctx, box, rep, "item", io.Discard, operate.DiffOptions{Content: true})
	require.NoError(w.t, err)
	return result
}

// force makes a replica equal to a master that went back: its rows over any revision, and without what only the replica has.
func (w *world) force(name string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.repair(name)
	master, box, err := openBox(ctx, masterURL(w.folder))
	require.NoError(w.t, err)
	defer master.Close()
	_, err = operate.Sync(ctx, box, "item", operate.SyncOptions{To: outbox.SyncOptions{Force: true}})
	require.NoError(w.t, err)
}
