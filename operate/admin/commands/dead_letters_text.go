package commands

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// printReplicaDeadLetter prints all of one.
func printReplicaDeadLetter(cmd *cli.Command, d admin.ReplicaDeadLetter) error {
	out := json.NewEncoder(stdout(cmd))
	if !cmd.Bool("json") {
		out.SetIndent("", "  ")
	}
	return out.Encode(d)
}

// deadLetterDump writes bodies as django-cqrs's cqrs_dead_letters dump
// does: one a line, as they are.
type deadLetterDump struct {
	cmd     *cli.Command
	leftOut int
}

// write writes a body. One of several lines has them between its tokens, where a space means the
// same.
func (d *deadLetterDump) write(l admin.ReplicaDeadLetter) error {
	if !envelope.Peek(l.Body, nil).Object {
		d.leftOut++
		fmt.Fprintf(stderr(d.cmd), "%d: left out, it is not a JSON object in UTF-8\n", l.ID)
		return nil
	}
	line := bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, bytes.TrimSpace(l.Body))
	_, err := stdout(d.cmd).Write(append(line, '\n'))
	return err
}

func (d *deadLetterDump) end() error {
	if d.leftOut == 0 {
		return nil
	}
	return exit.Partly(fmt.Errorf("%d dead letters were left out: relay dead-letters show has them",
		d.leftOut))
}
