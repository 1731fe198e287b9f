package replica

import (
	"encoding/json"
	"fmt"

	"github.com/cqrsync/cqrsync/envelope"
)

// A message names its key up to three times: in a header, which ledgers go by, as instance_pk, and
// in the columns of the instance (keys.go). Where they differ nobody can tell which row is meant,
// and a wrong guess would write one row under the revision of another.

// maxRevision is beyond what a key is ever written. One more would close the gate for every message
// to come.
const maxRevision int64 = 1 << 53

// checkClaims fails where the gate cannot believe what the message says of itself.
func (b *binding) checkClaims(m *envelope.Message) error {
	if m.Revision < 0 || m.Revision > maxRevision {
		return fmt.Errorf("cqrs_revision is %d: want 0 to %d", m.Revision, maxRevision)
	}
	if !hasPK(m) {
		return nil
	}
	key, err := envelope.KeyOf(m.PK)
	if err != nil {
		return fmt.Errorf("instance_pk: %w", err)
	}
	if key != m.Key {
		return fmt.Errorf("instance_pk is %.100q, and the header cqrs_key %.100q: send it again "+
			"from the master", key, m.Key)
	}
	return nil
}

// checkDeleted compares instance_pk with the key of a DELETE, which is always called id.
func (b *binding) checkDeleted(m *envelope.Message, fields map[string]json.RawMessage) error {
	if fields["id"] == nil {
		return nil
	}
	if id, err := envelope.KeyOf(b.spelledPK(fields["id"])); err == nil && id != m.Key {
		return fmt.Errorf("instance_pk is %.100q, and the id of instance_data %.100q: send it "+
			"again from the master", m.Key, id)
	}
	return nil
}

// hasPK says that instance_pk is not null, which only messages of django-cqrs may have.
func hasPK(m *envelope.Message) bool { return len(m.PK) > 0 && string(m.PK) != "null" }
