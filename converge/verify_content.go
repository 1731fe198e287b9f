package converge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/content"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// A text of what a row holds has a word for each field: the hash of its value, or of a relation the
// mask of the columns that the master sends, and a hash of these in all of its rows.

// keptField is what a replica keeps of the master's: a field, or of a relation these columns.
type keptField struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns,omitempty"`
}

const (
	// unreadableContent stands for a row of the master that cannot be read; what a replica has of it
	// may be right.
	unreadableContent = boxed.Unreadable
	// wrongContent stands for a row of the replica that no master can have sent.
	wrongContent = "!"
	fieldEnd     = ","
)

// contentOf makes the text of an instance, nil where the replica wants none.
func contentOf(fields []keptField) func(boxed.Instance) (string, error) {
	if fields == nil {
		return nil
	}
	return func(instance boxed.Instance) (string, error) {
		var values map[string]json.RawMessage
		if err := json.Unmarshal(envelope.Quoted(instance.Data), &values); err != nil {
			return "", err
		}
		var text []byte
		for _, f := range fields {
			value, has := values[f.Name]
			switch {
			case !has:
				text = append(text, content.NoHash...)
			case f.Columns == nil:
				text = content.AppendHash(text, value)
			default:
				text = appendList(text, value, f.Columns)
			}
			text = append(text, fieldEnd...)
		}
		return string(text), nil
	}
}

// appendList writes the word of a relation of the master.
func appendList(text []byte, value json.RawMessage, columns []string) []byte {
	var rows []map[string]json.RawMessage
	if json.Unmarshal(value, &rows) != nil {
		return content.AppendHash(text, value) // no list of objects: no row can stand for it
	}
	sent := make([]bool, len(columns))
	for i, name := range columns {
		sent[i] = len(rows) == 0
		for _, row := range rows {
			if _, has := row[name]; has {
				sent[i] = true
			}
		}
	}
	return appendRows(text, rows, columns, sent)
}

// appendRows writes the mask of the columns that are compared, and the hash of the rows in whatever
// order.
func appendRows(
	text []byte, rows []map[string]json.RawMessage, columns []string, sent []bool,
) []byte {
	words := make([]string, len(rows))
	for i, row := range rows {
		var word []byte
		for n, name := range columns {
			value, has := row[name]
			switch {
			case !sent[n]:
			case has:
				word = content.AppendHash(word, value)
			default:
				word = append(word, content.NoHash...)
			}
		}
		words[i] = string(word)
	}
	slices.Sort(words)
	for _, is := range sent {
		text = append(text, "01"[b2i(is)])
	}
	joined, _ := json.Marshal(strings.Join(words, " ")) // of letters
	return content.AppendHash(append(text, '.'), joined)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// keeper says what a replica keeps of a model, and makes the texts of its rows.
type keeper struct {
	shape   mirrored.Shape
	fields  []keptField
	columns map[string]string // by field
}

// newKeeper returns nil for a model without rows to compare.
func newKeeper(shape mirrored.Shape) (*keeper, error) {
	if !shape.Mirrored {
		return nil, errors.New("a handler keeps it, and only a mirror's rows can be compared")
	}
	k := &keeper{shape: shape, columns: map[string]string{}}
	for column, field := range shape.Fields {
		isKey := slices.ContainsFunc(shape.Key, func(f *schema.Field) bool { return f.Name == column })
		if !isKey && field != "cqrs_revision" && field != "cqrs_updated" {
			k.columns[field] = column
		}
	}
	for _, field := range slices.Sorted(maps.Keys(k.columns)) {
		k.fields = append(k.fields, keptField{Name: field})
	}
	for _, child := range shape.Children {
		f := keptField{Name: child.Field, Columns: []string{}}
		for _, column := range child.Columns {
			f.Columns = append(f.Columns, column.Name)
		}
		k.fields = append(k.fields, f)
	}
	return k, nil
}

// text makes the text of a row. like, where it is not nil, are the words of the master, and a value
// that has several spellings takes the master's.
func (k *keeper) text(kept mirrored.Kept, fields []keptField, like []string) (string, error) {
	if !kept.Row.IsValid() {
		return wrongContent, nil
	}
	own, err := k.values(kept)
	if err != nil || own == nil {
		return wrongContent, err
	}
	var text []byte
	for i, f := range fields {
		word := ""
		if like != nil {
			word = like[i]
		}
		switch value, has := own[k.columns[f.Name]]; {
		case f.Columns != nil:
			if text, err = k.appendChildren(text, kept, f, word); err != nil {
				return "", err
			}
		case word == content.NoHash, !has:
			text = append(text, content.NoHash...)
		default:
			field := k.shape.Table.FieldMap[k.columns[f.Name]]
			hashes := content.Spellings(field, kept.Row, value, k.shape.NaNAsNull)
			if word == "" || !content.Holds(hashes, word) {
				word = hashes[:content.HashLen]
			}
			text = append(text, word...)
		}
		text = append(text, fieldEnd...)
	}
	return string(text), nil
}

// values are those of the columns of a row; nil where it has a value that no master has sent.
func (k *keeper) values(kept mirrored.Kept) (map[string]json.RawMessage, error) {
	object, err := boxed.Rows.Encode(k.shape.Table, kept.Row, kept.Nulls)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // an infinite time, for example
	}
	var own map[string]json.RawMessage
	if err := json.Unmarshal(envelope.Quoted(object), &own); err != nil {
		return nil, fmt.Errorf("key %s: %w", kept.Key, err)
	}
	for column, value := range own {
		if k.shape.Fields[column] == "cqrs_revision" &&
			strings.Trim(string(value), `"`) != strconv.FormatInt(kept.Revision, 10) {
			return nil, nil //nolint:nilnil // no master has sent it
		}
		if constant, is := k.shape.Constants[column]; is && !isValue(value, constant) {
			return nil, nil //nolint:nilnil // no master has sent it
		}
	}
	return own, nil
}

// isValue says that a column holds a value.
func isValue(value json.RawMessage, constant any) bool {
	text, err := json.Marshal(constant)
	if err != nil {
		return false
	}
	return bytes.Equal(envelope.AppendCanonical(nil, text), envelope.AppendCanonical(nil, value))
}

// appendChildren writes the word of a relation.
func (k *keeper) appendChildren(
	text []byte, kept mirrored.Kept, f keptField, like string,
) ([]byte, error) {
	i := slices.IndexFunc(k.shape.Children, func(c mirrored.Child) bool { return c.Field == f.Name })
	if i < 0 || i >= len(kept.Children) {
		return append(text, content.NoHash...), nil
	}
	if like == content.NoHash {
		return append(text, like...), nil
	}
	sent := make([]bool, len(f.Columns))
	mask, _, isMask := strings.Cut(like, ".")
	for n := range sent {
		sent[n] = !isMask || n >= len(mask) || mask[n] == '1'
	}
	rows := make([]map[string]json.RawMessage, len(kept.Children[i]))
	for n, r := range kept.Children[i] {
		object, err := boxed.Rows.Encode(k.shape.Children[i].Table, r.Row, r.Nulls)
		if err != nil {
			return append(text, wrongContent...), nil //nolint:nilerr // no master has sent it
		}
		if err := json.Unmarshal(envelope.Quoted(object), &rows[n]); err != nil {
			return nil, fmt.Errorf("key %s: %w", kept.Key, err)
		}
	}
	if like == nullList && len(rows) == 0 {
		return append(text, like...), nil
	}
	return appendRows(text, rows, f.Columns, sent), nil
}

var nullList = string(content.AppendHash(nil, json.RawMessage("null")))

// contentOf makes the texts of a model's rows.
func (v *verifier) contentOf(model string) (func(mirrored.Kept) (string, error), error) {
	k := v.kept.keepers[model]
	if k == nil {
		return nil, errors.New("the master compares content, which this process does not")
	}
	fields := v.kept.fieldsOf(model)
	return func(kept mirrored.Kept) (string, error) { return k.text(kept, fields, nil) }, nil
}

// sameContent says that a row holds what the master claims, as far as that can be told.
func (v *verifier) sameContent(model string, c claim, kept mirrored.Kept) bool {
	k, fields := v.kept.keepers[model], v.kept.fieldsOf(model)
	words := strings.Split(c.Content, fieldEnd)
	if k == nil || c.Content == unreadableContent || len(words) != len(fields)+1 {
		return true // of another set of fields, which is over by the next pass
	}
	text, err := k.text(kept, fields, words)
	v.learnUnsent(model, fields, words)
	return err == nil && text == c.Content
}
