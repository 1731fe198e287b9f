package command

import (
	"fmt"
	"strings"

	"github.com/cqrsync/cqrsync/operate"
)

// warnUnsent says which columns the master sends nothing for. It does so with --quiet too: they are
// why the exit code is not 0, and no repair helps.
func (j *job) warnUnsent(found operate.Difference) {
	for _, u := range found.Unsent {
		fmt.Fprintf(j.Root().ErrWriter, "%s: model %s: column %s keeps the field %s, which the "+
			"master does not send: what it holds may be old. Name the field that the master "+
			"sends (map in cqrsync.yaml, replica.Rename), or leave the column out (columns, "+
			"replica.Own)\n", j.Name, found.Model, u.Column, u.Field)
	}
}

// notCompared is the end of a line that says how much is equal.
func notCompared(found operate.Difference) string {
	not := found.NotCompared
	if !found.Content {
		not = []string{"columns (--content compares them)"}
	}
	if len(not) == 0 {
		return ""
	}
	return "; not compared: " + strings.Join(not, ", ")
}
