package replica

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// A uuid has several spellings: with hyphens, without, in upper case. Where Go knows that a key is
// one, the ledger has it in lower case with hyphens, whatever the master sends.

// keyFields are the columns that the master's key fills, of a handler's struct as well.
func (b *binding) keyFields() []*schema.Field {
	switch id := b.table.FieldMap["id"]; {
	case b.key != nil:
		return b.key
	case len(b.table.PKs) == 0 && id != nil:
		return []*schema.Field{id}
	default:
		return b.table.PKs
	}
}

// hasUUIDKey says that the key, or a part of it, has several spellings.
func (b *binding) hasUUIDKey() bool {
	return slices.ContainsFunc(b.keyFields(), func(f *schema.Field) bool {
		return stored.IsUUID(f.IndirectType)
	})
}

// spelled is a value of a column in its one spelling.
func spelled(f *schema.Field, raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || raw[0] != '"' || !stored.IsUUID(f.IndirectType) {
		return raw
	}
	return stored.UUIDText(f.IndirectType, raw)
}

// spelledPK is a primary key in its one spelling.
func (b *binding) spelledPK(pk json.RawMessage) json.RawMessage {
	keys := b.keyFields()
	switch {
	case len(pk) == 0:
		return pk
	case len(keys) == 1:
		return spelled(keys[0], pk)
	case pk[0] != '[':
		return pk
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(pk, &parts); err != nil || len(parts) != len(keys) {
		return pk
	}
	changed := false
	for i, f := range keys {
		one := spelled(f, parts[i])
		changed = changed || string(one) != string(parts[i])
		parts[i] = one
	}
	if !changed {
		return pk
	}
	whole, err := json.Marshal(parts)
	if err != nil {
		return pk
	}
	return whole
}

// spellKey gives a message the key that the ledger knows it by.
func (b *binding) spellKey(m *envelope.Message) {
	if !b.respells || !hasPK(m) {
		return
	}
	before, err := envelope.KeyOf(m.PK)
	if err != nil {
		return
	}
	pk := b.spelledPK(m.PK)
	if key, err := envelope.KeyOf(pk); err == nil {
		m.PK = pk
		if m.Key == before {
			m.Key = key
		} else if keys := b.keyFields(); len(keys) == 1 {
			m.Key = spelledText(keys[0], m.Key)
		}
	}
}

// spelledText is spelled for the text of a key, as the header has it.
func spelledText(f *schema.Field, key string) string {
	quoted, err := json.Marshal(key)
	if err != nil {
		return key
	}
	if again, err := envelope.KeyOf(spelled(f, quoted)); err == nil &&
		stored.IsUUID(f.IndirectType) {
		return again
	}
	return key
}

var hyphenated = regexp.MustCompile(`^'[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}'$`)

// withoutHyphens refuses a uuid's text in a char(32), which is made for one without hyphens; SQLite
// would keep it.
func withoutHyphens(c catalog.Column) limit {
	return func(value string) error {
		if !hyphenated.MatchString(value) {
			return nil
		}
		return fmt.Errorf("%s does not hold a uuid with hyphens; if it holds uuids without, say "+
			"so (types: {COLUMN: uuid} in cqrsync.yaml, column.HexUUID in Go)", c.Type)
	}
}
