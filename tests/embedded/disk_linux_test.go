package embedded

import (
	"os"
	"path/filepath"
	"strings"
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
	other := filepath.Join(disk, "of-somebody-else") // so that the disk is full sooner
	require.NoError(t, os.WriteFile(other, make([]byte, 2<<20), 0o600))
	w.broker, w.rate = filepath.Join(disk, "broker.db"), 500
	w.replicates("away").stop()
	w.replicates("stats")
	w.start("relay")
	writer := w.start("writer")
	// The log of the file begins anew now and then, which makes room for some more.
	full := func() bool {
		said := w.said()
		return strings.LastIndex(said, "are kept free so that consumers can work") >
			strings.LastIndex(said, "broker available again")
	}
	require.Eventually(t, func() bool {
		before := full()
		w.writes(100)
		return before && full()
	}, patience, 10*time.Millisecond, "a full disk")
	writer.stop()
	require.NotZero(t, w.unsent(), "everything is kept")

	w.replicates("away")
	w.becomesEqual("stats")
	w.becomesEqual("away")
	require.Eventually(t, func() bool { return w.unsent() == 0 }, patience, 50*time.Millisecond)
	require.NotContains(t, w.said(), "damaged")
}
