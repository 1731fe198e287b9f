package registry

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Action is something that a person did.
type Action struct {
	ID      int64
	Done    time.Time
	Who     string
	Action  string
	Outcome string
}

// Begin notes that somebody is about to do something, and returns its identity.
func (r *Registry) Begin(ctx context.Context, who, action string) (id int64, err error) {
	err = r.DB().QueryRowContext(ctx, "INSERT INTO ? (done_at, who, action, outcome) VALUES ("+
		r.Dialect().Now()+", ?, ?, 'begun') RETURNING id", r.Table("outbox_actions"), clean(who),
		clean(action)).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("note what is about to be done: %w", err)
	}
	return id, nil
}

// End notes how it ended.
func (r *Registry) End(ctx context.Context, id int64, outcome string) error {
	_, err := r.DB().ExecContext(ctx, "UPDATE ? SET outcome = ? WHERE id = ?",
		r.Table("outbox_actions"), clean(outcome), id)
	if err != nil {
		return fmt.Errorf("note how an action ended: %w", err)
	}
	return nil
}

// Actions returns the latest actions, newest first; with an identity that is not 0, only that one.
func (r *Registry) Actions(ctx context.Context, id int64, limit int) (all []Action, err error) {
	rows, err := r.DB().QueryContext(ctx, "SELECT id, "+r.Dialect().Micros("done_at")+
		", who, action, outcome FROM ? WHERE id = ? OR ? = 0 ORDER BY id DESC LIMIT ?",
		r.Table("outbox_actions"), id, id, limit)
	if err != nil {
		return nil, fmt.Errorf("read what was done: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var a Action
		var done int64
		if err := rows.Scan(&a.ID, &done, &a.Who, &a.Action, &a.Outcome); err != nil {
			return nil, fmt.Errorf("read what was done: %w", err)
		}
		a.Done = time.UnixMicro(done).UTC()
		all = append(all, a)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what was done: %w", err)
	}
	return all, nil
}

// clean is a text that every database takes.
func clean(text string) string {
	const most = 2000
	text = strings.ReplaceAll(text, "\x00", "")
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}
