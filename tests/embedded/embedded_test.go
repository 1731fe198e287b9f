//go:build unix

package embedded

import (
	"database/sql"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// Every process is killed or stopped again and again, and every file locked by somebody else.
func TestEqualWhateverHappensToTheProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats")
	roles := []string{"stats", "writer", "writer", "relay", "relay", "stats"}
	w.replicates("stats").stop() // its queue is there
	processes := make([]*process, len(roles))
	for i, role := range roles {
		processes[i] = w.start(role)
	}
	files := []string{"master.db", "stats.db", "broker.db"}
	killed, stopped, locked := 0, 0, 0
	for end := time.Now().Add(*length); time.Now().Before(end); {
		i := rand.IntN(len(roles))
		switch rand.IntN(4) {
		case 0:
			stopped++
			processes[i].signal(syscall.SIGSTOP)
			<-time.After(time.Duration(rand.IntN(3000)) * time.Millisecond)
			processes[i].signal(syscall.SIGCONT)
		case 1:
			locked++
			lock(t, filepath.Join(w.folder, files[rand.IntN(len(files))]), time.Duration(rand.IntN(1500))*time.Millisecond)
		default:
			killed++
			processes[i].kill()
			processes[i] = w.start(roles[i])
		}
		for i, p := range processes {
			if p.hasEnded() { // who is stopped for long holds locks: others give up, and are started again
				processes[i] = w.start(roles[i])
			}
		}
		<-time.After(time.Duration(rand.IntN(200)) * time.Millisecond)
	}
	w.writes(20)
	for i, role := range roles {
		if role == "writer" {
			processes[i].stop()
		}
	}
	w.becomesEqual("stats")
	t.Logf("%d committed; %d killed, %d stopped, %d times a file locked", w.committed.Load(), killed, stopped, locked)
	require.NotContains(t, w.said(), "panic:")
	require.NotContains(t, w.said(), "DATA RACE")
}

// lock holds SQLite's lock on a file, as somebody with a shell may.
func lock(t *testing.T, path string, length time.Duration) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		return // somebody who is stopped has it
	}
	<-time.After(length)
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
}

// A message for nobody is kept until there is somebody.
func TestAReplicaThatComesLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats", "late")
	relay := w.start("relay")
	writer := w.start("writer")
	w.writes(50)
	w.hears("it does not exist: a replica makes it when it starts")
	require.NoFileExists(t, w.broker)
	require.False(t, relay.hasEnded())
	require.NotZero(t, w.unsent())

	w.replicates("stats")
	w.writes(50)
	writer.stop()
	w.becomesEqual("stats")

	// One that comes after messages have left has to be told of those.
	w.replicates("late")
	w.start("writer")
	w.writes(20)
	require.NotZero(t, w.repair("late").Differing)
}

// A relay on another file than the replica's published everything to nobody.
func TestARelayOnAnotherFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats")
	w.replicates("stats")
	right := w.broker
	w.broker = filepath.Join(w.folder, "borker.db")
	wrong := w.start("relay")
	writer := w.start("writer")
	w.writes(30)
	writer.stop()
	w.hears("borker.db: it does not exist")
	require.NotZero(t, w.unsent(), "everything is kept")
	require.NoFileExists(t, w.broker)

	// The same with a file that is there, and belongs to other replicas.
	other := newWorld(t, "others")
	other.replicates("others").stop()
	lost, err := database.OpenExisting("sqlite://" + other.broker)
	require.NoError(t, err)
	_, err = lost.ExecContext(t.Context(), "DELETE FROM bindings")
	require.NoError(t, err)
	require.NoError(t, lost.Close())
	require.NoError(t, os.Rename(other.broker, w.broker))
	w.hears("no queue is bound to the topic")
	require.NotZero(t, w.unsent(), "everything is kept")

	wrong.stop()
	w.broker = right
	w.start("relay")
	w.becomesEqual("stats")
}

// What waited in a file that is deleted is lost, which a line says, and a diff brings it back.
func TestADeletedBrokerFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats", "away")
	w.replicates("away").stop()
	w.replicates("stats")
	w.start("relay")
	writer := w.start("writer")
	w.writes(50)
	for _, file := range []string{w.broker, w.broker + "-wal", w.broker + "-shm"} {
		_ = os.Remove(file) // SQLite may have removed one
	}
	w.hears("the broker's file was deleted or replaced while it was open")
	w.hears("joined the queue in another file")
	w.writes(50)
	writer.stop()
	require.Eventually(t, func() bool { return w.unsent() == 0 }, patience, 50*time.Millisecond)
	w.replicates("away")
	for _, name := range []string{"stats", "away"} {
		w.repair(name)
		w.becomesEqual(name)
	}
}

// Another file is put in the place of the broker's, from a backup that was made while all was running.
func TestARestoredBrokerFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats")
	w.replicates("stats")
	w.start("relay")
	writer := w.start("writer")
	w.writes(50)
	backup := filepath.Join(t.TempDir(), "broker.db")
	copyFile(t, w.broker, backup)
	w.writes(50)
	for _, file := range []string{w.broker + "-wal", w.broker + "-shm"} {
		_ = os.Remove(file) // SQLite may have removed it
	}
	require.NoError(t, os.Rename(backup, w.broker))
	w.hears("was replaced by another one while it was open")
	w.writes(50)
	writer.stop()
	require.Eventually(t, func() bool { return w.unsent() == 0 }, patience, 50*time.Millisecond)
	w.repair("stats")
	w.becomesEqual("stats")
}

// A backup of all files that was made while everything ran, in the order that docs/operations.md names.
func TestABackupOfARunningFileSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats")
	running := []*process{w.replicates("stats"), w.start("relay"), w.start("writer")}
	w.writes(100)
	backup := t.TempDir()
	for _, file := range []string{"master.db", "broker.db", "stats.db"} {
		copyFile(t, filepath.Join(w.folder, file), filepath.Join(backup, file))
		w.writes(10)
	}
	w.writes(50)
	for _, p := range running {
		p.kill()
	}

	w.folder, w.broker = backup, filepath.Join(backup, "broker.db")
	w.replicates("stats")
	w.start("relay")
	require.Eventually(t, func() bool { return w.unsent() == 0 }, patience, 50*time.Millisecond)
	// The replica's file is the youngest: of what the master does not know any more a diff and sync --force tell.
	w.force("stats")
	w.becomesEqual("stats")
	writer := w.start("writer")
	w.writes(50)
	writer.stop()
	w.becomesEqual("stats")
}

// copyFile makes a copy as relay backup does.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	db, err := database.OpenExisting("sqlite://" + from)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.DB.ExecContext(t.Context(), "VACUUM INTO ?", to)
	require.NoError(t, err)
}

// One consumer is away: what waits for it may grow with what is written, and nothing else may.
func TestBoundedGrowthWithOneConsumerAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats", "away")
	w.rate = 200
	w.replicates("away").stop()
	w.replicates("stats")
	w.start("relay")
	writer := w.start("writer")
	var wal, master int64
	for end := time.Now().Add(*length); time.Now().Before(end); {
		wal = max(wal, size(w.broker+"-wal"))
		master = max(master, size(filepath.Join(w.folder, "master.db")), size(filepath.Join(w.folder, "stats.db")))
		<-time.After(100 * time.Millisecond)
	}
	writer.stop()
	w.becomesEqual("stats")
	require.Eventually(t, func() bool { return w.unsent() == 0 }, patience, 50*time.Millisecond)

	var waiting, others int64
	db := dbtest.Open(t, "sqlite://"+w.broker+"?mode=ro")
	require.NoError(t, db.NewRaw("SELECT count(*) FROM messages WHERE queue = 'away'").Scan(t.Context(), &waiting))
	require.NoError(t, db.NewRaw("SELECT count(*) FROM messages WHERE queue <> 'away'").Scan(t.Context(), &others))
	require.LessOrEqual(t, waiting, 2*w.committed.Load(), "some are sent twice when a lease runs out")
	require.NotZero(t, waiting)
	require.Zero(t, others, "what was acknowledged is gone")
	file := size(w.broker)
	t.Logf("%d committed, %d wait; the broker's file has %d bytes each, its log had %d kB at most; the others' files %d kB",
		w.committed.Load(), waiting, file/waiting, wal>>10, master>>10)
	require.Less(t, file, 1<<20+2000*waiting)
	require.Less(t, wal, int64(20<<20))
	require.Less(t, master, int64(16<<20))

	w.replicates("away")
	w.becomesEqual("away")
	require.Eventually(t, func() bool {
		require.NoError(t, db.NewRaw("SELECT count(*) FROM messages").Scan(t.Context(), &waiting))
		return waiting == 0
	}, patience, 50*time.Millisecond)
	require.Less(t, size(w.broker), file+1<<20, "the room is used again")
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// A master whose file is gone says so, in place of writing where nobody will look.
func TestADeletedMasterFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats")
	w.replicates("stats")
	w.start("relay")
	writer := w.start("writer")
	w.writes(20)
	for _, file := range []string{"master.db", "master.db-wal", "master.db-shm"} {
		_ = os.Remove(filepath.Join(w.folder, file)) // SQLite may have removed one
	}
	w.hears("was deleted or moved away while it was open")
	<-writer.ended
	require.NoFileExists(t, filepath.Join(w.folder, "master.db"))
	require.True(t, strings.Contains(w.said(), "put it back"))
}
