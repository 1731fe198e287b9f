package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/replica"
)

// letterSideFlag says whose dead letters are meant.
func (o *options) letterSideFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "side", Destination: &o.side, Value: string(store.Outbox),
		Usage: "whose: outbox (messages that could not be published) or replica (that could not be " +
			"applied: in its database, or with --queue on the broker)",
	}
}

// bySide is the action for the side that --side names.
func (o *options) bySide(ofOutbox, ofReplica cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		switch store.Side(o.side) {
		case store.Outbox:
			return ofOutbox(ctx, cmd)
		case store.Replica:
			return ofReplica(ctx, cmd)
		default:
			return wrong(sideSetting.wrong(fmt.Errorf("%q, want outbox or replica", o.side)))
		}
	}
}

// replicaLetterObject is what --json prints of a replica's dead letter. Names are never changed, only added.
type replicaLetterObject struct {
	ID       int64             `json:"id"`
	Queue    string            `json:"queue"`
	Model    string            `json:"model,omitempty"`
	Key      string            `json:"key,omitempty"`
	Revision *int64            `json:"revision,omitempty"`
	Retries  *int64            `json:"retries,omitempty"` // on the broker
	Error    string            `json:"error"`             // Django does not say
	Dead     time.Time         `json:"dead,omitzero"`     // in the database
	Body     string            `json:"body,omitempty"`
	Base64   []byte            `json:"body_base64,omitempty"` // where it is no text
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (d *replicaLetterObject) setBody(body []byte) {
	if utf8.Valid(body) {
		d.Body = string(body)
	} else {
		d.Base64 = body
	}
}

// withoutContent is what list shows.
func (d replicaLetterObject) withoutContent() replicaLetterObject {
	d.Body, d.Base64, d.Metadata = "", nil, nil
	return d
}

func (o *options) replicaLetters(ctx context.Context, cmd *cli.Command) (objects []replicaLetterObject, err error) {
	s, err := o.openLettersOf(ctx, cmd, store.Replica, false)
	if err != nil {
		return nil, err
	}
	letters, err := s.ReplicaDeadLetters(ctx, o.letterFilter(), o.letters.limit)
	for _, d := range letters {
		object := replicaLetterObject{
			ID: d.ID, Queue: d.Queue, Model: d.Model, Key: d.Key, Revision: d.Revision,
			Error: d.Error, Dead: d.Dead, Metadata: d.Metadata,
		}
		object.setBody(d.Body)
		objects = append(objects, object)
	}
	return objects, err
}

func (o *options) listReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	letters, err := o.replicaLetters(ctx, cmd)
	if err != nil {
		return err
	}
	return o.printReplicaLetters(letters)
}

// printReplicaLetters prints a list.
func (o *options) printReplicaLetters(letters []replicaLetterObject) error {
	if o.json {
		out := json.NewEncoder(o.stdout)
		for _, d := range letters {
			if err := out.Encode(d.withoutContent()); err != nil {
				return err
			}
		}
		return nil
	}
	if len(letters) == 0 {
		fmt.Fprintln(o.stdout, "no dead letters")
		return nil
	}
	// A broker knows how often they were tried, and not since when they are dead.
	onBroker := letters[0].Dead.IsZero()
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	heading := "GIVEN UP"
	if onBroker {
		heading = "RETRIES"
	}
	fmt.Fprintf(table, "ID\tMODEL\tKEY\tREVISION\t%s\tERROR\n", heading)
	for _, d := range letters {
		end := d.Dead.Format(time.RFC3339)
		if onBroker {
			end = known(d.Retries)
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n",
			d.ID, oneLine(d.Model), oneLine(d.Key), known(d.Revision), end, oneLine(d.Error))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(letters) == o.letters.limit {
		fmt.Fprintf(o.stdout, "there may be more: --after %d\n", letters[len(letters)-1].ID)
	}
	return nil
}

func known(n *int64) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprint(*n)
}

func (o *options) showReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	if err := o.checkIDs(); err != nil {
		return err
	}
	letters, err := o.replicaLetters(ctx, cmd)
	if err != nil {
		return err
	}
	for _, d := range letters {
		if err := o.printReplicaLetter(d); err != nil {
			return err
		}
	}
	return o.checkFound(len(letters))
}

// printReplicaLetter prints all of one.
func (o *options) printReplicaLetter(d replicaLetterObject) error {
	out := json.NewEncoder(o.stdout)
	if !o.json {
		out.SetIndent("", "  ")
	}
	return out.Encode(d)
}

// retryReplicaLetters needs the models: what is retried is applied here and now.
func (o *options) retryReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	if _, err := o.openLettersOf(ctx, cmd, store.Replica, true); err != nil {
		return err
	}
	// As the replica itself: here --queue is another thing.
	o.queue = cmp.Or(o.queue, os.Getenv("CQRSYNC_QUEUE"))
	rep, err := o.openReplica(ctx, "")
	if err != nil {
		return err
	}
	if err := o.readAge(ctx, rep); err != nil {
		return err
	}
	f := o.letterFilter()
	done, stayed := 0, 0
	err = rep.RetryLetters(ctx, replica.LetterFilter{IDs: f.IDs, Model: f.Model, Key: f.Key, Before: f.Before},
		func(d replica.RetriedLetter) {
			object := retriedObject{ID: d.ID, Model: d.Model, Key: d.Key, Retried: d.Err == nil, Reason: d.Outcome.String()}
			done++
			if d.Err != nil {
				done, stayed = done-1, stayed+1
				object.Reason = d.Err.Error()
			}
			_ = o.printRetried(object) // as with any other print
		})
	if err != nil {
		return err
	}
	return allRetried(done, stayed)
}

// allRetried is the end of a retry after which so many letters stayed.
func allRetried(done, stayed int) error {
	switch {
	case stayed > 0:
		return &partlyError{fmt.Errorf("%d dead letters stay: mend what the reasons say, "+
			"or relay dead-letters purge forgets them", stayed)}
	case done == 0:
		return &partlyError{errors.New("no dead letter was found")}
	}
	return nil
}

func (o *options) purgeReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.openLettersOf(ctx, cmd, store.Replica, true)
	if err != nil {
		return err
	}
	n, err := s.RemoveReplicaDeadLetters(ctx, o.letterFilter())
	if err != nil {
		return err
	}
	return o.printPurged(n)
}

// printRetried prints what became of a letter: all of the reason, at whose end is what helps.
func (o *options) printRetried(object retriedObject) error {
	if o.json {
		return json.NewEncoder(o.stdout).Encode(object)
	}
	_, err := fmt.Fprintf(o.stdout, "%d: %s\n", object.ID, printable(object.Reason))
	return err
}
