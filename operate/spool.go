package operate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// spoolBytes is how much of a spool is held in memory.
const spoolBytes = 8 << 20

// spool keeps lines to be read again, those that are many in a file.
type spool struct {
	memory bytes.Buffer
	file   *os.File
}

func (s *spool) add(line []byte) error {
	s.memory.Write(line)
	s.memory.WriteByte('\n')
	if s.memory.Len() < spoolBytes {
		return nil
	}
	if s.file == nil {
		var err error
		if s.file, err = os.CreateTemp("", "cqrsync-keys-"); err != nil {
			return fmt.Errorf("keep the keys until all are known (TMPDIR names a folder for "+
				"that): %w", err)
		}
	}
	_, err := s.memory.WriteTo(s.file)
	return err
}

// reader reads what was added. Nothing is added afterwards.
func (s *spool) reader() (io.Reader, error) {
	if s.file == nil {
		return &s.memory, nil
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.MultiReader(s.file, &s.memory), nil
}

func (s *spool) close() error {
	if s.file == nil {
		return nil
	}
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}
