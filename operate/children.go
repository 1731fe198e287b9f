package operate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/content"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// childrenDiffer compares the rows of a relation, by the fields that both sides have, in whatever
// order.
func (c *columns) childrenDiffer(
	m claim, child mirrored.Child, rows []mirrored.ChildRow,
) (bool, error) {
	whole, ok := c.hash(m, child.Field)
	l, isList := m.more.Lists[child.Field]
	switch {
	case !ok:
		return false, nil
	case whole == emptyList || whole == nullList:
		return len(rows) > 0, nil
	case !isList:
		return true, nil // no list of objects: no row can stand for it
	case len(l.Hashes) != len(rows):
		return true, nil
	}
	var names []string
	var places []int
	for i, name := range l.Names {
		if slices.ContainsFunc(child.Columns,
			func(f *schema.Field) bool { return f.Name == name }) {
			names, places = append(names, name), append(places, i)
		}
	}
	theirs, ours := map[string]int{}, map[string]int{}
	for _, hashes := range l.Hashes {
		theirs[pick(hashes, places)]++
	}
	for _, r := range rows {
		object, err := boxed.Rows.Encode(child.Table, r.Row, r.Nulls)
		if err != nil {
			return false, fmt.Errorf("a row of %s: %w", child.Table.Name, err)
		}
		var own map[string]json.RawMessage
		if err := json.Unmarshal(envelope.Quoted(object), &own); err != nil {
			return false, err
		}
		ours[hashesOf(own, names)]++
	}
	return !maps.Equal(theirs, ours), nil
}

var (
	emptyList = string(content.AppendHash(nil, json.RawMessage("[]")))
	nullList  = string(content.AppendHash(nil, json.RawMessage("null")))
)

// pick are the hashes at the given places.
func pick(hashes string, places []int) string {
	var b strings.Builder
	for _, i := range places {
		b.WriteString(hashes[i*content.HashLen : (i+1)*content.HashLen])
	}
	return b.String()
}
