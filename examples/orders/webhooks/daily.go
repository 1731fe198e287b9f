package webhooks

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// Daily is the schedule of a subscriber that wants one summary a day in place of every action.
type Daily struct {
	At   string    `bun:",notnull" json:"at"`   // 08:00; empty: no summary
	Zone string    `bun:",notnull" json:"zone"` // Europe/Berlin
	From time.Time `bun:",nullzero" json:"from,omitzero"`
	Next time.Time `bun:",nullzero" json:"next,omitzero"`
}

// start fills in what the subscriber left out, and returns what is wrong with the rest.
func (d *Daily) start(now time.Time) (problems web.InvalidError) {
	if d.At == "" {
		d.At = "00:00"
	}
	if d.Zone == "" {
		d.Zone = "UTC"
	}
	if _, err := time.Parse("15:04", d.At); err != nil || len(d.At) != len("15:04") {
		problems = append(problems, fmt.Sprintf("daily.at: %s, want a time like 08:00", web.Quote(d.At)))
	}
	if _, err := web.Zone("daily.zone", d.Zone); err != nil {
		problems = append(problems, err.Error())
	}
	if len(problems) == 0 {
		d.From, d.Next = now, d.after(now)
	}
	return problems
}

// after is the next time of day at which a summary is due. Where clocks are put forward over it, it
// is the same time that day by the clock before.
func (d *Daily) after(now time.Time) time.Time {
	zone, err := time.LoadLocation(d.Zone)
	if err != nil {
		zone = time.UTC // the zone went out of use since
	}
	at, _ := time.Parse("15:04", d.At) // was checked by start
	day := now.In(zone)
	for days := 0; ; days++ {
		next := time.Date(day.Year(), day.Month(), day.Day()+days, at.Hour(), at.Minute(), 0, 0, zone)
		if next.After(now) {
			return next.UTC()
		}
	}
}

// news is one action that waits for a subscriber's summary.
type news struct {
	bun.BaseModel `bun:"table:webhook_news"`

	ID             int64     `bun:",pk,autoincrement"`
	SubscriptionID int64     `bun:",notnull"`
	OrderID        int64     `bun:",notnull"`
	Action         Action    `bun:",notnull"`
	MessageID      string    `bun:",notnull"` // of the summary that told it; empty before
	CreatedAt      time.Time `bun:",notnull"`
}

// summary is the body of a summary.
type summary struct {
	Action  Action         `json:"action"`
	From    time.Time      `json:"from"`
	Until   time.Time      `json:"until"`
	Actions map[Action]int `json:"actions"`
	Orders  int            `json:"orders"` // how many were touched
	Total   int64          `json:"total"`  // cents of those that are still there
}

// summarise queues the summaries that are due, each with its subscriber's next date in one
// transaction.
func (s *Service) summarise(ctx context.Context) error {
	now := s.config.now()
	var due []Subscription
	err := s.db.NewSelect().Model(&due).Where("daily_next <= ?", now).Order("id").Scan(ctx)
	if err != nil {
		return fmt.Errorf("find summaries that are due: %w", err)
	}
	for i := range due {
		err := s.inTx(ctx, func(ctx context.Context, tx bun.Tx) error {
			return summariseOne(ctx, tx, &due[i], now)
		})
		if err != nil {
			return fmt.Errorf("sum up for subscription %d: %w", due[i].ID, err)
		}
	}
	return nil
}

// summariseOne marks the news first and counts what it marked: what others commit meanwhile is in
// the next summary, and nothing in two, or in none.
func summariseOne(ctx context.Context, tx bun.Tx, subscriber *Subscription, now time.Time) error {
	result, err := tx.NewUpdate().Model(subscriber).
		Set("daily_from = ?", now).Set("daily_next = ?", subscriber.Daily.after(now)).
		WherePK().Where("daily_next = ?", subscriber.Daily.Next).Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err // another process was quicker, or the subscription ended
	}
	id := newMessageID()
	_, err = tx.NewUpdate().Model((*news)(nil)).Set("message_id = ?", id).
		Where("subscription_id = ?", subscriber.ID).Where("message_id = ''").Exec(ctx)
	if err != nil {
		return err
	}
	body, err := sumUp(ctx, tx, id, subscriber.Daily.From, now)
	if err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(&Delivery{
		SubscriptionID: subscriber.ID, Action: Summary, MessageID: id, URL: subscriber.URL, Body: body,
		State: Pending, NextAt: now, CreatedAt: now,
	}).Exec(ctx)
	return err
}

func sumUp(
	ctx context.Context, tx bun.Tx, id string, from, until time.Time,
) (json.RawMessage, error) {
	var counts []struct {
		Action Action
		Count  int
	}
	told := func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Model((*news)(nil)).Where("message_id = ?", id)
	}
	err := told(tx.NewSelect()).Column("action").ColumnExpr("count(*) AS count").Group("action").
		Scan(ctx, &counts)
	if err != nil {
		return nil, err
	}
	body := summary{Action: Summary, From: from.UTC(), Until: until, Actions: map[Action]int{}}
	for _, count := range counts {
		body.Actions[count.Action] = count.Count
	}
	err = told(tx.NewSelect()).ColumnExpr("count(DISTINCT order_id)").Scan(ctx, &body.Orders)
	if err != nil {
		return nil, err
	}
	err = tx.NewSelect().Model((*Order)(nil)).ColumnExpr("coalesce(sum(total), 0)").
		Where("id IN (?)", told(tx.NewSelect()).Column("order_id")).Scan(ctx, &body.Total)
	if err != nil {
		return nil, err
	}
	return json.Marshal(body)
}
