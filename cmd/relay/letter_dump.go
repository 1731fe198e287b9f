package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
)

// letterDump writes bodies as django-cqrs's cqrs_dead_letters dump does: one a line, as they are.
type letterDump struct {
	*options

	leftOut int
}

// write writes a body. One of several lines has them between its tokens, where a space means the
// same.
func (d *letterDump) write(id int64, body []byte) error {
	if !envelope.Peek(body, nil).Object {
		d.leftOut++
		fmt.Fprintf(d.stderr, "%d: left out, it is not a JSON object in UTF-8\n", id)
		return nil
	}
	line := bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, bytes.TrimSpace(body))
	_, err := d.stdout.Write(append(line, '\n'))
	return err
}

func (d *letterDump) end() error {
	if d.leftOut == 0 {
		return nil
	}
	return &partlyError{fmt.Errorf("%d dead letters were left out: relay dead-letters show has them",
		d.leftOut)}
}

func refuseDump(context.Context, *cli.Command) error {
	return wrong(sideSetting.wrong(errors.New("dump is for --side replica; of an outbox, " +
		"show --json has everything")))
}

func (o *options) dumpReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.openLettersOf(ctx, cmd, store.Replica, false)
	if err != nil {
		return err
	}
	const page = 100
	dump := letterDump{options: o}
	for filter := o.letterFilter(); ; {
		letters, err := s.ReplicaDeadLetters(ctx, filter, page)
		if err != nil {
			return err
		}
		for _, letter := range letters {
			if err := dump.write(letter.ID, letter.Body); err != nil {
				return err
			}
		}
		if len(letters) < page {
			return dump.end()
		}
		filter.After = letters[page-1].ID
	}
}
