package operate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// keep keeps keys until the master is asked for them.
func (d *digests) keep(pks []json.RawMessage) error {
	if len(pks) == 0 {
		return nil
	}
	line := []byte{'['}
	line = append(line, bytes.Join(asBytes(pks), []byte{','})...)
	return d.extra.add(append(line, ']'))
}

func asBytes(pks []json.RawMessage) [][]byte {
	texts := make([][]byte, len(pks))
	for i, pk := range pks {
		texts[i] = pk
	}
	return texts
}

// tell writes what was kept, as DeletedDiffReplica does.
func (d *digests) tell(w io.Writer) error {
	to := newOut(w, d.held)
	to.open()
	kept, err := d.extra.reader()
	if err == nil {
		_, err = io.Copy(to, kept)
	}
	return errors.Join(err, to.end(err == nil))
}
