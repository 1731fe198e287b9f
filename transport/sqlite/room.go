package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

const (
	// journalLimit is what SQLite leaves of the write-ahead log when it begins anew.
	journalLimit = 16 << 20
	// journalMost is how large the log may be before publishing waits until it can begin anew.
	journalMost = 64 << 20
	// reserve is what publishing leaves of the disk, so that what was published can be acknowledged; on a small disk a
	// quarter of it.
	reserve = 8 << 20
)

// room says whether size bytes may be published. Consumers write without asking: what they write makes room. A log that
// fills the disk would stop them, too, and nobody could make room any more.
func (h *handle) room(ctx context.Context, size uint64) error {
	var journal uint64
	if info, err := os.Stat(h.path + "-wal"); err == nil {
		journal = uint64(max(info.Size(), 0)) //nolint:gosec // not negative
	}
	if journal > journalMost {
		if err := h.checkpoint(ctx, journal); err != nil {
			return err
		}
	}
	free, total, known := disk(filepath.Dir(h.path))
	need := min(reserve, total/4) + 4*size // a message is written for each queue, and indexed
	// What is in the log goes into the file later, into pages that are free there, or else to its end.
	if !known || free >= need+journal || free >= need && h.unused(ctx) >= journal+4*size {
		return nil
	}
	return fmt.Errorf("its disk has %d MB left, and %d are kept free so that consumers can work: make room, "+
		"start the replicas, or see relay queues list for queues that nobody reads", free>>20, (need+journal)>>20)
}

// unused returns the bytes of the file that hold nothing; none where it does not answer.
func (h *handle) unused(ctx context.Context) (size uint64) {
	row := h.reader.QueryRowContext(ctx,
		"SELECT f.freelist_count * p.page_size FROM pragma_freelist_count AS f, pragma_page_size AS p")
	if err := row.Scan(&size); err != nil {
		return 0
	}
	return size
}

// checkpoint moves the log into the file, and fails where somebody keeps it from that.
func (h *handle) checkpoint(ctx context.Context, journal uint64) error {
	var busy, frames, moved int64
	row := h.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	if err := row.Scan(&busy, &frames, &moved); err != nil {
		return err
	}
	if busy == 0 && moved >= frames {
		return nil
	}
	return fmt.Errorf("its log has %d MB and cannot begin anew, because a process has been reading the file for long: "+
		"end that (fuser %s-wal names it)", journal>>20, h.path)
}
