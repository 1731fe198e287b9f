package operate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/content"
)

// With content, a line of DiffMaster has a third value per key: for each field that line 1 names,
// in that order, six characters that stand for its value. So a replica compares what it keeps,
// whatever it keeps and whatever it calls it. A fourth value is there where an instance has more
// than that: see contents.
const announcesContent = "content="

// contents are hashes of an instance's fields that line 1 has no place for.
type contents struct {
	// Fields are those that the first instance did not have.
	Fields map[string]string `json:"fields,omitempty"`
	// Lists are the fields that are lists of objects, such as relations: a replica may keep a part
	// of each.
	Lists map[string]list `json:"lists,omitempty"`
}

// list is a list of objects: for each a hash per name, in the order of Names.
type list struct {
	Names  []string `json:"names"`
	Hashes []string `json:"hashes"`
}

// isStamp says that the field is the ledger's and not the instance's.
func isStamp(name string) bool { return name == "cqrs_revision" || name == "cqrs_updated" }

// fieldNames are the members of an object in their order, but for those that a first line cannot
// hold.
func fieldNames(object json.RawMessage) ([]string, error) {
	names := []string{} // not nil: that is no content
	d := json.NewDecoder(bytes.NewReader(envelope.Quoted(object)))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return nil, err
		}
		if text := fmt.Sprint(name); text != "" && !strings.ContainsAny(text, " \t\n\r,") &&
			!isStamp(text) {
			names = append(names, text)
		}
	}
	return names, nil
}

// appendContents writes the third value of an instance, and the fourth where it needs one.
func appendContents(line []byte, object json.RawMessage, names []string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(envelope.Quoted(object), &fields); err != nil {
		return nil, err
	}
	var more contents
	line = append(line, `,"`...)
	for _, name := range names {
		value, found := fields[name]
		if !found {
			line = append(line, content.NoHash...)
			continue
		}
		line = content.AppendHash(line, value)
		more.addList(name, value)
		delete(fields, name)
	}
	line = append(line, '"')
	for name, value := range fields {
		if isStamp(name) {
			continue
		}
		if more.Fields == nil {
			more.Fields = map[string]string{}
		}
		more.Fields[name] = string(content.AppendHash(nil, value))
		more.addList(name, value)
	}
	if more.Fields == nil && more.Lists == nil {
		return line, nil
	}
	text, err := json.Marshal(more)
	return append(append(line, ','), text...), err
}

// addList adds the value if it is a list of objects.
func (c *contents) addList(name string, value json.RawMessage) {
	if value[0] != '[' {
		return
	}
	var elements []map[string]json.RawMessage
	if json.Unmarshal(value, &elements) != nil || len(elements) == 0 {
		return
	}
	all := map[string]bool{}
	for _, element := range elements {
		for name := range element {
			all[name] = true
		}
	}
	l := list{Names: slices.Sorted(maps.Keys(all)), Hashes: make([]string, len(elements))}
	for i, element := range elements {
		l.Hashes[i] = hashesOf(element, l.Names)
	}
	if c.Lists == nil {
		c.Lists = map[string]list{}
	}
	c.Lists[name] = l
}

// hashesOf are the hashes of an object's fields of the given names.
func hashesOf(object map[string]json.RawMessage, names []string) string {
	var text []byte
	for _, name := range names {
		if value, found := object[name]; found {
			text = content.AppendHash(text, value)
		} else {
			text = append(text, content.NoHash...)
		}
	}
	return string(text)
}
