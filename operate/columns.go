package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/content"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/outbox"
)

// columns compares what a replica keeps of an instance with what the master said of it, and notes
// what it could not compare.
type columns struct {
	shape mirrored.Shape
	names map[string]int // the fields that line 1 names, and their place
	// kept are the fields that the replica keeps, by what fills them: its columns, and those of its
	// children as relation.column.
	kept map[string]string
	// sent are those of which a master's instance had a value; lacking counts the instances that
	// had none.
	sent    map[string]bool
	lacking map[string]int64
	// not are the columns that nobody can compare.
	not map[string]bool
}

func newColumns(shape mirrored.Shape, names []string) *columns {
	c := &columns{
		shape: shape, names: make(map[string]int, len(names)), kept: map[string]string{},
		sent: map[string]bool{}, lacking: map[string]int64{}, not: map[string]bool{},
	}
	for i, name := range names {
		c.names[name] = i
	}
	for column, field := range shape.Fields {
		switch field {
		case "cqrs_updated":
			c.not[column] = true // the listing has no times
		case "cqrs_revision":
		default:
			c.kept[column] = field
		}
	}
	for _, pk := range shape.Key { // the row was found by it
		delete(c.kept, pk.Name)
	}
	for _, column := range shape.Computed {
		c.not[column] = true
	}
	for _, child := range shape.Children {
		c.kept[child.Field] = child.Field
	}
	return c
}

// hash is what the master said of a field; ok is false where the instance has no such field.
func (c *columns) hash(m claim, field string) (hash string, ok bool) {
	if i, named := c.names[field]; named {
		hash = m.hashes[i*content.HashLen : (i+1)*content.HashLen]
		return hash, hash != content.NoHash
	}
	hash, ok = m.more.Fields[field]
	return hash, ok
}

// note counts, once per instance, which of the kept fields the master sent.
func (c *columns) note(m claim) {
	for name, field := range c.kept {
		if _, ok := c.hash(m, field); ok {
			c.sent[name] = true
		} else {
			c.lacking[name]++
		}
	}
	for _, child := range c.shape.Children {
		l := m.more.Lists[child.Field]
		for _, f := range child.Columns {
			name := child.Field + "." + f.Name
			switch {
			case slices.Contains(l.Names, f.Name):
				c.sent[name] = true
			case len(l.Hashes) > 0:
				c.lacking[name]++
			}
		}
	}
}

// sameKey makes sure that the columns which hold the master's key are those of the replica's key.
func (c *columns) sameKey(m claim) error {
	parts := []json.RawMessage{json.RawMessage(m.pk)}
	if m.pk[0] == '[' {
		if err := json.Unmarshal([]byte(m.pk), &parts); err != nil {
			return err
		}
	}
	fields := make([]string, len(c.shape.Key))
	same := len(parts) == len(fields)
	for i, f := range c.shape.Key {
		fields[i] = c.shape.Fields[f.Name]
		if same && c.shape.Mirrored {
			hash, ok := c.hash(m, fields[i])
			same = ok && hash == string(content.AppendHash(nil, parts[i]))
		}
	}
	if !same {
		return keyedOtherwise(m.pk, fields)
	}
	return nil
}

func keyedOtherwise(pk string, fields []string) error {
	return fmt.Errorf("the master's key is %s, and this replica is keyed by the master's %s, "+
		"which is something else, or has its columns in another order: key the replica's table "+
		"as the master's is keyed, and load it again; nothing was "+
		"repaired", pk, strings.Join(fields, ", "))
}

// differ says that a row is not what the master said.
func (c *columns) differ(m claim, kept mirrored.Kept) (bool, error) {
	object, err := boxed.Rows.Encode(c.shape.Table, kept.Row, kept.Nulls)
	if err != nil {
		return true, nil //nolint:nilerr // an infinite time, for example: no master has sent it
	}
	var own map[string]json.RawMessage
	if err := json.Unmarshal(envelope.Quoted(object), &own); err != nil {
		return false, fmt.Errorf("key %s: %w", kept.Key, err)
	}
	for column, value := range own {
		if field, is := c.kept[column]; is {
			hash, ok := c.hash(m, field)
			if ok && !content.Holds(content.Spellings(c.shape.Table.FieldMap[column], kept.Row,
				value, c.shape.NaNAsNull), hash) {
				return true, nil
			}
		}
		if c.shape.Fields[column] == "cqrs_revision" && !isNumber(value, m.revision) {
			return true, nil
		}
		if constant, is := c.shape.Constants[column]; is && !isValue(value, constant) {
			return true, nil
		}
	}
	for i, child := range c.shape.Children {
		differ, err := c.childrenDiffer(m, child, kept.Children[i])
		if differ || err != nil {
			return differ, err
		}
	}
	return false, nil
}

func isNumber(value json.RawMessage, n int64) bool {
	return strings.Trim(string(value), `"`) == fmt.Sprint(n)
}

// isValue says that a column holds the value of a Constant.
func isValue(value json.RawMessage, constant any) bool {
	text, err := json.Marshal(constant)
	return err == nil && string(envelope.AppendCanonical(nil,
		text)) == string(envelope.AppendCanonical(nil, value))
}

// unsent are the fields that the replica keeps and no instance of the master had.
func (c *columns) unsent(compared int64) (unsent []Unsent) {
	if compared == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.lacking)) {
		if !c.sent[name] {
			field := c.kept[name]
			if field == "" {
				field = name
			}
			unsent = append(unsent, Unsent{Column: name, Field: field})
		}
	}
	return unsent
}

// notCompared names the columns that were not compared, or not for all instances.
func (c *columns) notCompared() []string {
	not := slices.Sorted(maps.Keys(c.not))
	for _, name := range slices.Sorted(maps.Keys(c.lacking)) {
		if n := c.lacking[name]; c.sent[name] && n > 0 {
			not = append(not, fmt.Sprintf("%s of %d instances, which the master sends without it",
				name, n))
		}
	}
	return not
}

// sample compares one instance of the master with what the replica keeps, before anything is done:
// whether it is keyed by the same columns, and what it keeps that the master does not send.
func sample(
	ctx context.Context, box *outbox.Box, model string, shape mirrored.Shape,
) ([]Unsent, error) {
	first := boxed.Selection{PageSize: 1, Bad: func(json.RawMessage, error) {}} // others name it
	for page, err := range boxed.Of(box).Instances(ctx, model, first) {
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			continue // kept from replicas
		}
		line, err := appendContents([]byte(`[[`+string(page[0].PK)+`,0`), page[0].Data, nil)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", page[0].Key, err)
		}
		claims, err := parseClaims(string(append(line, "]]"...)), true)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", page[0].Key, err)
		}
		c := newColumns(shape, nil)
		if err := c.sameKey(claims[0]); err != nil || !shape.Mirrored {
			return nil, err
		}
		c.note(claims[0])
		return c.unsent(1), nil
	}
	return nil, nil
}
