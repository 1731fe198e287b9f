package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// FinishFree is Finish for what others hold locked in part: one locked row holds up its own key
// only, and waits for nobody. What is locked comes back as UnfinishedError.Left, with all else of
// its key: an older message may not stay behind a newer one that is removed, or it could leave for
// the first time after that.
func (q *Queue) FinishFree(ctx context.Context, relay string, lanes []Lane, done Outcome) error {
	began := time.Now()
	locked, err := q.lockedKeys(ctx, done)
	if all := (*LockedError)(nil); errors.As(err, &all) { // the whole table is
		return &UnfinishedError{all, done}
	}
	if err != nil {
		return err
	}
	free, left := done.split(func(key Key) bool { return !locked[key] })
	touched := setOf(free.retried())
	alone, together := free.split(func(key Key) bool { return touched[key] })
	switch err := q.finish(ctx, relay, lanes, together); {
	case db.LockTimedOut(err):
		// Somebody was quicker, or the database looks at more rows than those it deletes.
		alone = free
	case err != nil:
		return err
	}
	// A row that others are inserting cannot be seen, only waited for. So each key is on its own,
	// for as long as there is time.
	for _, part := range alone.byKey() {
		err := errLocked
		if time.Since(began) < q.Bounds().Idle/2 {
			err = q.finish(ctx, relay, lanes, part)
		}
		switch {
		case db.LockTimedOut(err) || errors.Is(err, errLocked):
			left = left.join(part)
		case err != nil:
			return err
		}
	}
	if len(left.keys()) == 0 {
		return nil
	}
	return NewUnfinishedError(left)
}

var errLocked = errors.New("their rows are locked by another transaction")

// lockedKeys are those of which others hold a message or a retry. Rows that are not there are not
// locked.
func (q *Queue) lockedKeys(ctx context.Context, done Outcome) (map[Key]bool, error) {
	skip := " " + q.dialect.LockRows()
	var free, there map[string]Key
	err := q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) (err error) {
		if free, err = q.rowsOf(ctx, tx, done, skip); err == nil {
			there, err = q.rowsOf(ctx, tx, done, "")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for locked rows: %w", err)
	}
	locked := map[Key]bool{}
	for row, key := range there {
		if _, ok := free[row]; !ok {
			locked[key] = true
		}
	}
	return locked, nil
}

// rowsOf names the rows that Finish would change, each with its key.
func (q *Queue) rowsOf(
	ctx context.Context, tx bun.IDB, done Outcome, lock string,
) (map[string]Key, error) {
	found := map[string]Key{}
	for chunk := range slices.Chunk(done.messages(), maxRemoved) {
		byID := map[int64]Key{}
		for _, m := range chunk {
			byID[m.ID] = Key{Model: m.Model, Key: m.Key}
		}
		var ids []int64
		if err := tx.NewRaw(q.dialect.identities(string(q.Table("outbox_messages")), chunk,
			lock)).Scan(ctx, &ids); err != nil {
			return nil, err
		}
		for _, id := range ids {
			found[fmt.Sprint("message ", id)] = byID[id]
		}
	}
	for chunk := range slices.Chunk(done.retried(), db.MaxKeys) {
		rows, err := tx.QueryContext(ctx,
			q.SQL(`SELECT model, "key" FROM ? WHERE (model, "key") IN (?)`+lock),
			q.Table("outbox_retries"), db.Tuples(chunk))
		if err != nil {
			return nil, err
		}
		if err := eachKey(rows, func(key Key) {
			found[fmt.Sprintf("retry %q",
				key)] = key
		}); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// messages are all that leave the outbox.
func (o Outcome) messages() []*Claimed {
	all := slices.Clone(o.Sent)
	for _, f := range o.Dead {
		all = append(all, f.Claimed)
	}
	return all
}

func (o Outcome) keys() []Key {
	var keys []Key
	seen := map[Key]bool{}
	for _, key := range slices.Concat(keysOf(o.messages()), o.retried()) {
		if !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys
}

// retried are the keys whose retries are ended or begun.
func (o Outcome) retried() []Key {
	keys := keysOf(slices.DeleteFunc(slices.Clone(o.Sent), func(m *Claimed) bool {
		return !m.Failed
	}))
	for _, f := range slices.Concat(o.Failed, o.Dead) {
		keys = append(keys, Key{Model: f.Model, Key: f.Key})
	}
	return keys
}

func setOf(keys []Key) map[Key]bool {
	set := make(map[Key]bool, len(keys))
	for _, key := range keys {
		set[key] = true
	}
	return set
}

// split divides an outcome by keys.
func (o Outcome) split(in func(Key) bool) (yes, no Outcome) {
	messages := func(all []*Claimed, yes, no *[]*Claimed) {
		for _, m := range all {
			if in(Key{Model: m.Model, Key: m.Key}) {
				*yes = append(*yes, m)
			} else {
				*no = append(*no, m)
			}
		}
	}
	failures := func(all []Failure, yes, no *[]Failure) {
		for _, f := range all {
			if in(Key{Model: f.Model, Key: f.Key}) {
				*yes = append(*yes, f)
			} else {
				*no = append(*no, f)
			}
		}
	}
	messages(o.Sent, &yes.Sent, &no.Sent)
	failures(o.Failed, &yes.Failed, &no.Failed)
	failures(o.Dead, &yes.Dead, &no.Dead)
	return yes, no
}

// byKey divides an outcome into one for each key, in the order of their first message.
func (o Outcome) byKey() []Outcome {
	index := map[Key]int{}
	var parts []Outcome
	of := func(key Key) *Outcome {
		i, ok := index[key]
		if !ok {
			i = len(parts)
			index[key], parts = i, append(parts, Outcome{})
		}
		return &parts[i]
	}
	for _, m := range o.Sent {
		part := of(Key{Model: m.Model, Key: m.Key})
		part.Sent = append(part.Sent, m)
	}
	for _, f := range o.Failed {
		part := of(Key{Model: f.Model, Key: f.Key})
		part.Failed = append(part.Failed, f)
	}
	for _, f := range o.Dead {
		part := of(Key{Model: f.Model, Key: f.Key})
		part.Dead = append(part.Dead, f)
	}
	return parts
}

func (o Outcome) join(with Outcome) Outcome {
	return Outcome{
		Sent:   slices.Concat(o.Sent, with.Sent),
		Failed: slices.Concat(o.Failed, with.Failed), Dead: slices.Concat(o.Dead, with.Dead),
	}
}

// Without returns what is in an outcome and not of a key in another one.
func (o Outcome) Without(left Outcome) Outcome {
	keys := setOf(left.keys())
	rest, _ := o.split(func(key Key) bool { return !keys[key] })
	return rest
}
