package queue

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Incarnation names the course of history that the outbox's database is on. It is drawn when the
// tables are made, and anew when the database went back: only the part behind the dash then, so
// that replicas know whose it is.
type Incarnation struct {
	ID    string
	Drawn time.Time
	// Reason is why it was drawn.
	Reason string
}

// First says that it is the one that was drawn when the tables were made.
func (i Incarnation) First() bool { return i.Reason == "the tables were made" }

// Incarnation returns the present one.
func (q *Queue) Incarnation(ctx context.Context) (Incarnation, error) {
	return q.incarnation(ctx, q.DB())
}

func (q *Queue) incarnation(ctx context.Context, db bun.IDB) (i Incarnation, err error) {
	var drawn int64
	err = db.QueryRowContext(ctx, "SELECT id, "+q.dialect.Micros("drawn_at")+", reason FROM ?",
		q.Table("outbox_incarnation")).
		Scan(&i.ID, &drawn, &i.Reason)
	if err != nil {
		return i, fmt.Errorf("read the incarnation of the outbox: %w", err)
	}
	i.Drawn = time.UnixMicro(drawn).UTC()
	return i, nil
}

// DrawIncarnation draws a new one, because an operator says that the database went back.
func (q *Queue) DrawIncarnation(ctx context.Context, reason string) (Incarnation, error) {
	before, err := q.Incarnation(ctx)
	if err == nil {
		err = q.draw(ctx, q.DB(), before.ID, reason)
	}
	if err != nil {
		return before, fmt.Errorf("draw an incarnation: %w", err)
	}
	return q.Incarnation(ctx)
}

// draw draws a new incarnation in place of one, unless somebody else has.
func (q *Queue) draw(ctx context.Context, db bun.IDB, before, reason string) error {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	database, _, _ := strings.Cut(before, "-")
	_, err := db.ExecContext(ctx, "UPDATE ? SET id = ?, drawn_at = "+q.dialect.Now()+
		", reason = ? WHERE id = ?",
		q.Table("outbox_incarnation"), database+"-"+hex.EncodeToString(random), cut(reason,
			400), before)
	return err
}

func cut(text string, length int) string {
	if len(text) > length {
		text = strings.ToValidUTF8(text[:length], "")
	}
	return text
}

// placeEvery is how often it is asked where the database is.
const placeEvery = time.Minute

// settleIn draws a new incarnation where the database is not where it was: a copy that was
// restored, or another server after a failover, which may have been behind. What cannot be asked is
// not known, and changes nothing.
func (q *Queue) settleIn(ctx context.Context) error {
	if !q.timeline.placeDue(time.Now()) {
		return nil
	}
	place, err := q.Place(ctx, "outbox_incarnation", true)
	if err != nil || place == "" { // what does not answer now may do so next time
		return nil //nolint:nilerr // that the database is away is for what follows to say
	}
	table := q.Table("outbox_incarnation")
	var id, before string
	if err := q.DB().QueryRowContext(ctx, "SELECT id, place FROM ?", table).Scan(&id,
		&before); err != nil {
		return fmt.Errorf("read where the outbox was: %w", err)
	}
	if before == place {
		return nil
	}
	return q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		result, err := tx.ExecContext(ctx, "UPDATE ? SET place = ? WHERE place = ? AND id = ?",
			table, place, before, id)
		if err != nil || before == "" {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err // somebody else did
		}
		return q.draw(ctx, tx, id, "the database is another server or a restored copy: "+before+
			" before, now "+place)
	})
}
