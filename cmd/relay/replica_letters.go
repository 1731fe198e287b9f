package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/replica"
)

// letterSideFlag says whose dead letters are meant.
func (o *options) letterSideFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "side", Destination: &o.side, Value: string(store.Outbox),
		Usage: "whose: outbox (messages that could not be published) or replica (that could not be applied)",
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
	Error    string            `json:"error"`
	Dead     time.Time         `json:"dead"`
	Body     string            `json:"body,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (o *options) replicaLetters(ctx context.Context, cmd *cli.Command) (objects []replicaLetterObject, err error) {
	s, err := o.openLettersOf(ctx, cmd, store.Replica, false)
	if err != nil {
		return nil, err
	}
	letters, err := s.ReplicaDeadLetters(ctx, o.letterFilter(), o.letters.limit)
	for _, d := range letters {
		objects = append(objects, replicaLetterObject{
			d.ID, d.Queue, d.Model, d.Key, d.Revision, d.Error, d.Dead, string(d.Body), d.Metadata,
		})
	}
	return objects, err
}

func (o *options) listReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	letters, err := o.replicaLetters(ctx, cmd)
	if err != nil {
		return err
	}
	if len(letters) == 0 && !o.json {
		fmt.Fprintln(o.stdout, "no dead letters")
		return nil
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	if !o.json {
		fmt.Fprintln(table, "ID\tMODEL\tKEY\tREVISION\tGIVEN UP\tERROR")
	}
	for _, d := range letters {
		if o.json {
			d.Body, d.Metadata = "", nil
			if err := json.NewEncoder(o.stdout).Encode(d); err != nil {
				return err
			}
			continue
		}
		revision := "?"
		if d.Revision != nil {
			revision = fmt.Sprint(*d.Revision)
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n",
			d.ID, oneLine(d.Model), oneLine(d.Key), revision, d.Dead.Format(time.RFC3339), oneLine(d.Error))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(letters) == o.letters.limit && !o.json {
		fmt.Fprintf(o.stdout, "there may be more: --after %d\n", letters[len(letters)-1].ID)
	}
	return nil
}

func (o *options) showReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	if len(o.letters.ids) == 0 {
		return wrong(idSetting.wrong(errors.New("not set, want the id of a dead letter, as dead-letters list shows it")))
	}
	letters, err := o.replicaLetters(ctx, cmd)
	if err != nil {
		return err
	}
	for _, d := range letters {
		out := json.NewEncoder(o.stdout)
		if !o.json {
			out.SetIndent("", "  ")
		}
		if err := out.Encode(d); err != nil {
			return err
		}
	}
	if missing := len(o.letters.ids) - len(letters); missing > 0 {
		return &partlyError{fmt.Errorf("%d of %d ids are no dead letters", missing, len(o.letters.ids))}
	}
	return nil
}

// retryReplicaLetters needs the models: what is retried is applied here and now.
func (o *options) retryReplicaLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	if _, err := o.openLettersOf(ctx, cmd, store.Replica, true); err != nil {
		return err
	}
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
			if o.json {
				_ = json.NewEncoder(o.stdout).Encode(object) // as with any other print
				return
			}
			fmt.Fprintf(o.stdout, "%d: %s\n", d.ID, oneLine(object.Reason))
		})
	switch {
	case err != nil:
		return err
	case stayed > 0:
		return &partlyError{fmt.Errorf("%d dead letters stay: mend what the reasons say, or relay dead-letters purge forgets them", stayed)}
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
	if o.json {
		return json.NewEncoder(o.stdout).Encode(map[string]int64{"purged": n})
	}
	fmt.Fprintf(o.stdout, "%d purged\n", n)
	return nil
}
