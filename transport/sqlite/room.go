package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cqrsync/cqrsync/internal/sqlitefile"
)

const (
	// journalLimit is what SQLite leaves of the write-ahead log when it begins anew.
	journalLimit = 16 << 20
	// journalMost is how large the log may be before publishing waits until it can begin anew.
	journalMost = 32 << 20
	// reserve is what publishing leaves of the disk, so that what was published can be
	// acknowledged; on a small disk a third of it.
	reserve = 8 << 20
	// journalPages is after how many pages SQLite moves the log into the file, by default.
	journalPages = 1000
)

func reserved(total uint64) uint64 { return min(reserve, total/3) }

// checkpointPages keeps what consumers write to the log, before it begins anew, within a quarter of
// what is reserved for them: the log also holds what was published and is not in the file yet, for
// which there must be room then.
func checkpointPages(path string) uint64 {
	const page = 4096
	_, total, known := disk(filepath.Dir(path))
	if !known {
		return journalPages
	}
	return min(journalPages, max(reserved(total)/4/page, 16))
}

// room says whether size bytes may be published. Consumers write without asking: what they write
// makes room. A log that fills the disk would stop them, too, and nobody could make room any more.
func (h *handle) room(ctx context.Context, size uint64) error {
	journal := h.journal()
	if journal > journalMost {
		if err := h.checkpoint(ctx, journal); err != nil {
			return err
		}
	}
	if h.fits(ctx, journal, size) {
		return nil
	}
	if err := h.emptyJournal(ctx); err != nil {
		return err
	}
	journal = h.journal()
	if h.fits(ctx, journal, size) {
		return nil
	}
	free, total, _ := disk(filepath.Dir(h.path))
	return fmt.Errorf("its disk has %d kB left, and %d are kept free so that consumers can work: "+
		"make room, start the replicas, or see relay queues list for queues that nobody reads",
		free>>10, (reserved(total)+journal+4*size)>>10)
}

// fits says whether size bytes may be published, while the log has a size. A message is written for
// each queue, and indexed. What is in the log goes into the file later, into pages that are free
// there, or else to its end.
//
// The file never shrinks, so a disk that was full once stays at its reserve when everything has
// been consumed. While the pages of the file take everything, half of the reserve is enough for the
// log: else nobody would ever publish again.
func (h *handle) fits(ctx context.Context, journal, size uint64) bool {
	free, total, known := disk(filepath.Dir(h.path))
	need := reserved(total) + 2*size
	later := journal + 2*size
	if !known || free >= need+later {
		return true
	}
	return free+reserved(total)/2 >= need && free+h.unused(ctx) >= need+later
}

func (h *handle) journal() uint64 {
	info, err := os.Stat(h.path + "-wal")
	if err != nil {
		return 0
	}
	return uint64(max(info.Size(), 0)) //nolint:gosec // not negative
}

// emptyJournal gives the room of the log back, unless somebody reads in it just now.
func (h *handle) emptyJournal(ctx context.Context) error {
	conn, err := h.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The writers wait meanwhile.
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout = 100"); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	_, restoreErr := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d",
		sqlitefile.LockTimeout.Milliseconds()))
	if sqlitefile.IsFull(err) || sqlitefile.IsBusy(err) {
		err = nil // then it keeps its size
	}
	return errors.Join(err, restoreErr)
}

// unused returns the bytes of the file that hold nothing; none where it does not answer.
func (h *handle) unused(ctx context.Context) (size uint64) {
	row := h.reader.QueryRowContext(ctx,
		"SELECT f.freelist_count * p.page_size FROM pragma_freelist_count AS f, pragma_page_size "+
			"AS p")
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
	return fmt.Errorf("its log has %d MB and cannot begin anew, because a process has been "+
		"reading the file for long: end that (fuser %s-wal names it)", journal>>20, h.path)
}
