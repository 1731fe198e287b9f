package registry

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Inquiry is a question to a replica: what it has of a key.
type Inquiry struct {
	ID, Queue, Model, Key string
	// Asked is when it was asked, Sent when it went to the replica, and Answered when the answer
	// came; zero for not yet.
	Asked, Sent, Answered time.Time
	// Answer is what the replica said, in JSON; empty for nothing yet.
	Answer json.RawMessage
}

const (
	// inquiryKept is how long questions and answers are kept, at least.
	inquiryKept = 10 * time.Minute
	// maxInquiries bounds how many there are at once.
	maxInquiries = 1000
)

// Inquire asks replicas what they have of a key, and returns the questions' identities by queue.
// Whoever answers replicas sends them.
func (r *Registry) Inquire(
	ctx context.Context, queues []string, model, key string,
) (ids map[string]string, err error) {
	ids = make(map[string]string, len(queues))
	err = r.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		now, table := r.Dialect().Now(), r.Table("outbox_inquiries")
		if _, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE asked_at < "+
			r.Dialect().After(now, -inquiryKept), table); err != nil {
			return err
		}
		n, err := r.count(ctx, tx, "outbox_inquiries", "1 = 1")
		if err != nil {
			return err
		}
		if n+len(queues) > maxInquiries {
			return fmt.Errorf("%d keys were asked for within %s: try again later", n, inquiryKept)
		}
		for _, queue := range queues {
			ids[queue] = rand.Text()
			if _, err := tx.ExecContext(ctx, r.SQL(`INSERT INTO ? (id, queue, model, "key", asked_at) `+
				"VALUES (?, ?, ?, ?, "+now+")"), table, ids[queue], queue, model, key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask replicas about a key: %w", err)
	}
	return ids, nil
}

// UnsentInquiries returns the questions that nobody has sent.
func (r *Registry) UnsentInquiries(ctx context.Context) ([]Inquiry, error) {
	return r.inquiries(ctx, "sent_at IS NULL")
}

// Inquiries returns the questions with some identities, as far as they are there.
func (r *Registry) Inquiries(ctx context.Context, ids []string) ([]Inquiry, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return r.inquiries(ctx, "id IN (?)", bun.List(ids))
}

func (r *Registry) inquiries(
	ctx context.Context, condition string, args ...any,
) (all []Inquiry, err error) {
	micros := r.Dialect().Micros
	rows, err := r.DB().QueryContext(ctx, r.SQL(`SELECT id, queue, model, "key", `+
		micros("asked_at")+", "+micros("sent_at")+", "+micros("answered_at")+", answer FROM ? WHERE "+
		condition+" ORDER BY queue"), append([]any{r.Table("outbox_inquiries")}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read what replicas are asked: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var i Inquiry
		var asked, sent, answered *int64
		var answer *string
		err := rows.Scan(&i.ID, &i.Queue, &i.Model, &i.Key, &asked, &sent, &answered, &answer)
		if err != nil {
			return nil, fmt.Errorf("read what replicas are asked: %w", err)
		}
		i.Asked, i.Sent, i.Answered = timeOf(asked), timeOf(sent), timeOf(answered)
		if answer != nil {
			i.Answer = json.RawMessage(*answer)
		}
		all = append(all, i)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what replicas are asked: %w", err)
	}
	return all, nil
}

// TakeInquiry says whether the caller is to send a question: one is.
func (r *Registry) TakeInquiry(ctx context.Context, id string) (mine bool, err error) {
	return r.change(ctx, "UPDATE ? SET sent_at = "+r.Dialect().Now()+
		" WHERE id = ? AND sent_at IS NULL", id)
}

// AnswerInquiry notes the first answer to a question, if it was asked of that replica.
func (r *Registry) AnswerInquiry(ctx context.Context, id, queue string, answer []byte) error {
	_, err := r.change(ctx, "UPDATE ? SET answer = ?, answered_at = "+r.Dialect().Now()+
		" WHERE id = ? AND queue = ? AND answered_at IS NULL", string(answer), id, queue)
	return err
}

func (r *Registry) change(ctx context.Context, statement string, args ...any) (bool, error) {
	result, err := r.DB().ExecContext(ctx, statement,
		append([]any{r.Table("outbox_inquiries")}, args...)...)
	if err != nil {
		return false, fmt.Errorf("note how a question to a replica stands: %w", err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
