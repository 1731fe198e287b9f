package commands

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// retriedObject is what retry --json prints of each.
type retriedObject struct {
	ID       int64  `json:"id"`
	Model    string `json:"model"`
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Retried  bool   `json:"retried"`
	Reason   string `json:"reason,omitempty"`
}

// retries counts what became of dead letters.
type retries struct{ done, stayed int }

// note counts a dead letter, and returns what is printed of it. reason
// is that of one that was retried.
func (r *retries) note(d admin.RetriedDeadLetter, reason string) retriedObject {
	object := retriedObject{ID: d.ID, Model: d.Model, Key: d.Key, Revision: d.Revision,
		Retried: d.Err == nil, Reason: reason}
	if d.Err != nil {
		r.stayed++
		object.Reason = d.Err.Error()
		return object
	}
	r.done++
	return object
}

// end is the end of a retry. stay says of those that stayed why, and what helps.
func (r *retries) end(stay string) error {
	switch {
	case r.stayed > 0:
		return exit.Partly(fmt.Errorf("%d dead letters stay%s", r.stayed, stay))
	case r.done == 0:
		return exit.Partly(errors.New("no dead letter was found"))
	}
	return nil
}

// onReplica is what helps with dead letters of a replica that stay.
const onReplica = ": mend what the reasons say, or relay dead-letters purge forgets them"

// printRetried prints what became of a replica's dead letter: all of the
// reason, at whose end is what helps.
func printRetried(cmd *cli.Command, object retriedObject) error {
	if cmd.Bool("json") {
		return printJSON(cmd, object)
	}
	_, err := fmt.Fprintf(stdout(cmd), "%d: %s\n", object.ID, printable(object.Reason))
	return err
}

func printPurged(cmd *cli.Command, n int64, err error) error {
	return printChanged(cmd, n, "purged", "%d purged\n", err)
}
