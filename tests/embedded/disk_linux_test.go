package embedded

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The broker's disk is full while a replica is away: messages wait in the outbox, and nothing is wedged.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stats", "away")
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("needs a file system of its own: mount a tmpfs as root: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(disk, syscall.MNT_DETACH)) })
	w.broker, w.rate = filepath.Join(disk, "broker.db"), 1000
	w.replicates("away").stop()
	w.replicates("stats")
	w.start("relay")
	writer := w.start("writer")
	w.hears("are kept free so that consumers can work")
	w.writes(100)
	writer.stop()
	require.NotZero(t, w.unsent(), "everything is kept")

	w.replicates("away")
	w.becomesEqual("stats")
	w.becomesEqual("away")
	require.Eventually(t, func() bool { return w.unsent() == 0 }, patience, 50*time.Millisecond)
	require.NotContains(t, w.said(), "damaged")
}
