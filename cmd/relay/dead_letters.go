package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

func (o *options) letterFilter() store.DeadLetterFilter {
	l := o.letters
	return store.DeadLetterFilter{IDs: l.ids, Model: l.model, Key: l.key, After: l.after, Before: l.before}
}

// readAge makes a time of --older-than, by the database's clock, which dated the letters.
func (o *options) readAge(ctx context.Context, side interface {
	Now(ctx context.Context) (time.Time, error)
}) error {
	if o.letters.olderThan <= 0 {
		return nil
	}
	now, err := side.Now(ctx)
	o.letters.before = now.Add(-o.letters.olderThan)
	return err
}

// openLetters checks the flags and opens the outbox; close closes it. choice says that something must be chosen.
func (o *options) openLetters(ctx context.Context, cmd *cli.Command, choice bool) (*store.Store, error) {
	return o.openLettersOf(ctx, cmd, store.Outbox, choice)
}

func (o *options) openLettersOf(ctx context.Context, cmd *cli.Command, side store.Side, choice bool) (*store.Store, error) {
	var timeErr error
	if o.letters.olderThan < 0 {
		timeErr = olderThanSetting.wrong(fmt.Errorf("%s, want a positive time", o.letters.olderThan))
	}
	s, dbErr := o.openStore()
	if err := wrong(noArguments(cmd), dbErr, o.checkChoice(choice), timeErr, o.checkLimit()); err != nil {
		return nil, err
	}
	if err := s.RequireMigrated(ctx, side); err != nil {
		return s, err
	}
	return s, o.readAge(ctx, s)
}

// letterObject is what --json prints of a dead letter. Names are never changed, only added.
type letterObject struct {
	ID       int64     `json:"id"`
	Model    string    `json:"model"`
	Key      string    `json:"key"`
	Revision int64     `json:"revision"`
	Signal   string    `json:"signal"`
	Queue    string    `json:"queue,omitempty"`
	Attempts int       `json:"attempts"`
	Error    string    `json:"error"`
	Created  time.Time `json:"created"`
	Dead     time.Time `json:"dead"`

	*contentObject
}

// contentObject is the rest of it, which only show prints.
type contentObject struct {
	After         *int64            `json:"after"`
	PK            json.RawMessage   `json:"pk"`
	Data          json.RawMessage   `json:"data"`
	Previous      json.RawMessage   `json:"previous,omitempty"`
	Meta          json.RawMessage   `json:"meta,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	CorrelationID string            `json:"correlation_id,omitempty"`
	Updated       time.Time         `json:"updated"`
	Expires       *time.Time        `json:"expires,omitempty"`
}

func letterOf(d store.DeadLetter) letterObject {
	return letterObject{
		ID: d.ID, Model: d.Model, Key: d.Key, Revision: d.Revision, Signal: d.Signal, Queue: d.Queue,
		Attempts: d.Attempts, Error: d.Error, Created: d.Created, Dead: d.Dead,
	}
}

func contentOf(d store.DeadLetter) *contentObject {
	c := &contentObject{
		After: d.After, PK: d.PK, Data: d.Data, Previous: d.Previous, Meta: d.Meta, Headers: d.Headers,
		CorrelationID: d.CorrelationID, Updated: d.Updated,
	}
	if !d.Expires.IsZero() {
		c.Expires = &d.Expires
	}
	return c
}

func (o *options) listLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.openLetters(ctx, cmd, false)
	if err != nil {
		return err
	}
	if o.json {
		out := json.NewEncoder(o.stdout)
		return s.DeadLetters(ctx, o.letterFilter(), o.letters.limit, func(d store.DeadLetter) error { return out.Encode(letterOf(d)) })
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	var listed int
	var last int64
	err = s.DeadLetters(ctx, o.letterFilter(), o.letters.limit, func(d store.DeadLetter) error {
		if listed == 0 {
			fmt.Fprintln(table, "ID\tMODEL\tKEY\tREVISION\tSIGNAL\tGIVEN UP\tATTEMPTS\tERROR")
		}
		listed++
		last = d.ID
		fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%s\t%s\t%d\t%s\n", d.ID, d.Model, oneLine(d.Key), d.Revision, d.Signal,
			d.Dead.Format(time.RFC3339), d.Attempts, oneLine(d.Error))
		return nil
	})
	if err := errors.Join(err, table.Flush()); err != nil {
		return err
	}
	switch listed {
	case 0:
		fmt.Fprintln(o.stdout, "no dead letters")
	case o.letters.limit:
		fmt.Fprintf(o.stdout, "there may be more: --after %d\n", last)
	}
	return nil
}

// oneLine makes any text one cell of a table on a terminal: what a key or an error holds came from outside.
func oneLine(text string) string {
	const limit = 100
	quoted := printable(text)
	if runes := []rune(quoted); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return quoted
}

// printable is any text in one line, quoted where it has to be.
func printable(text string) string {
	if quoted := fmt.Sprintf("%q", text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

func (o *options) showLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.openLetters(ctx, cmd, false)
	if err := errors.Join(o.checkIDs(), err); err != nil {
		return err
	}
	shown := 0
	err = s.DeadLetters(ctx, o.letterFilter(), 0, func(d store.DeadLetter) error {
		shown++
		object := letterOf(d)
		object.contentObject = contentOf(d)
		if o.json {
			return json.NewEncoder(o.stdout).Encode(object)
		}
		return o.printLetter(object)
	})
	if err != nil {
		return err
	}
	return o.checkFound(shown)
}

func (o *options) printLetter(d letterObject) error {
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	line("id", fmt.Sprint(d.ID))
	line("message", fmt.Sprintf("%s of %s %s, revision %d", d.Signal, d.Model, oneLine(d.Key), d.Revision))
	line("queue", d.Queue)
	line("written", d.Created.Format(time.RFC3339Nano))
	line("given up", fmt.Sprintf("%s, after %d attempts", d.Dead.Format(time.RFC3339Nano), d.Attempts))
	line("error", fmt.Sprintf("%q", d.Error))
	line("correlation id", d.CorrelationID)
	for _, name := range slices.Sorted(maps.Keys(d.Headers)) {
		line("header", fmt.Sprintf("%q: %q", name, d.Headers[name]))
	}
	if d.Expires != nil {
		line("expires", d.Expires.Format(time.RFC3339Nano))
	}
	line("data", string(d.Data))
	line("previous", string(d.Previous))
	line("meta", string(d.Meta))
	return table.Flush()
}

// retriedObject is what retry --json prints of each.
type retriedObject struct {
	ID       int64  `json:"id"`
	Model    string `json:"model"`
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Retried  bool   `json:"retried"`
	Reason   string `json:"reason,omitempty"`
}

func (o *options) retryLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.openLetters(ctx, cmd, true)
	if err != nil {
		return err
	}
	const page = 500
	retried, stayed := 0, 0
	for filter := o.letterFilter(); ; {
		var letters []retriedObject
		err := s.DeadLetters(ctx, filter, page, func(d store.DeadLetter) error {
			letters = append(letters, retriedObject{ID: d.ID, Model: d.Model, Key: d.Key, Revision: d.Revision})
			return nil
		})
		if err != nil {
			return err
		}
		for _, d := range letters {
			err := s.RetryDeadLetter(ctx, d.ID)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				continue // somebody else retried or purged it just now
			case errors.Is(err, store.ErrSuperseded):
				stayed++
				d.Reason = err.Error()
			case err != nil:
				return err
			default:
				retried++
				d.Retried = true
			}
			if err := o.reportRetried(d); err != nil {
				return err
			}
		}
		if len(letters) < page {
			break
		}
		filter.After = letters[page-1].ID
	}
	if !o.json {
		fmt.Fprintf(o.stdout, "%d sent again, %d superseded\n", retried, stayed)
	}
	switch {
	case stayed > 0:
		return &partlyError{fmt.Errorf("%d dead letters stay, because newer messages of their keys were sent: "+
			"relay dead-letters purge forgets them", stayed)}
	case retried == 0:
		return &partlyError{errors.New("no dead letter was found")}
	}
	return nil
}

func (o *options) reportRetried(d retriedObject) error {
	if o.json {
		return json.NewEncoder(o.stdout).Encode(d)
	}
	if !d.Retried {
		fmt.Fprintf(o.stdout, "%s %s, revision %d: %s\n", d.Model, oneLine(d.Key), d.Revision, d.Reason)
	}
	return nil
}

func (o *options) purgeLetters(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.openLetters(ctx, cmd, true)
	if err != nil {
		return err
	}
	purged, err := s.PurgeDeadLetters(ctx, o.letterFilter())
	if err != nil {
		return err
	}
	return o.printPurged(purged)
}

func (o *options) printPurged(n int64) error {
	if o.json {
		return json.NewEncoder(o.stdout).Encode(map[string]int64{"purged": n})
	}
	fmt.Fprintf(o.stdout, "%d purged\n", n)
	return nil
}
