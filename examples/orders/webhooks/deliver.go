package webhooks

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/uptrace/bun"
)

// Config says how deliveries are posted. The zero value is ready to use.
type Config struct {
	// Workers is how many posts run at once. Default: 4.
	Workers int
	// Timeout ends a post that is not answered. Default: 5 s.
	Timeout time.Duration
	// MaxAttempts is how often a delivery is tried before it counts as failed. Default: 8.
	MaxAttempts int
	// Backoff is the pause after the first failed attempt; it doubles with the next ten. Default: 1 s.
	Backoff time.Duration
	// Poll is how long an idle worker waits before it looks for deliveries again. Default: 200 ms.
	Poll time.Duration
}

const maxDoublings = 10

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = 4
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.MaxAttempts <= 0 {
		c.MaxAttempts = 8
	}
	if c.Backoff <= 0 {
		c.Backoff = time.Second
	}
	if c.Poll <= 0 {
		c.Poll = 200 * time.Millisecond
	}
	return c
}

// poster posts pending deliveries. A crash between a post and its record makes a subscriber hear of it twice; the
// order's revision in the body tells it so.
type poster struct {
	db     *bun.DB
	config Config
	client *http.Client
	claims sync.Mutex // workers of one process would only fight for the same oldest row
}

func newPoster(db *bun.DB, config Config) *poster {
	config = config.withDefaults()
	return &poster{db: db, config: config, client: &http.Client{
		Timeout: config.Timeout,
		// A redirect is an answer that is not 2xx: the subscriber's URL is wrong, and its owner shall see it.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: config.Workers, IdleConnTimeout: 30 * time.Second},
	}}
}

func (p *poster) run(ctx context.Context) {
	defer p.client.CloseIdleConnections()
	var workers sync.WaitGroup
	for range p.config.Workers {
		workers.Go(func() { p.work(ctx) })
	}
	workers.Wait()
}

// work posts one delivery after the other. What fails here is the database; the next round tries again.
func (p *poster) work(ctx context.Context) {
	poll := time.NewTicker(p.config.Poll)
	defer poll.Stop()
	for ctx.Err() == nil {
		worked, err := p.next(ctx)
		if err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "deliveries wait for the database", "error", err)
		}
		if worked && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
		}
	}
}

// next posts the delivery that is due, if there is one.
func (p *poster) next(ctx context.Context) (worked bool, err error) {
	delivery, err := p.claim(ctx)
	if err != nil || delivery == nil {
		return false, err
	}
	attempt := p.post(ctx, delivery)
	if ctx.Err() != nil && attempt.Error != "" {
		return false, nil // cut short by the end of the service, not the subscriber's fault
	}
	// The post has happened: it is recorded even if the service is asked to stop right now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.config.Timeout)
	defer cancel()
	return true, p.record(ctx, delivery, attempt)
}

// claim takes the oldest delivery that is due, by moving it into the future: should this process die, another attempt
// follows then. An order's later actions wait for its earlier ones, per subscriber.
func (p *poster) claim(ctx context.Context) (*Delivery, error) {
	p.claims.Lock()
	defer p.claims.Unlock()
	at := now()
	var due Delivery
	err := p.db.NewSelect().Model(&due).Where("?TableAlias.state = ?", Pending).Where("?TableAlias.next_at <= ?", at).
		Where(`NOT EXISTS (SELECT 1 FROM webhook_deliveries AS e WHERE e.order_id = ?TableAlias.order_id
			AND e.subscription_id = ?TableAlias.subscription_id AND e.id < ?TableAlias.id AND e.state = ?)`, Pending).
		OrderExpr("?TableAlias.next_at, ?TableAlias.id").Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // nothing is due
	}
	if err != nil {
		return nil, fmt.Errorf("find a delivery that is due: %w", err)
	}
	// The condition stands again: another process may have been quicker, and then the row is due no more.
	result, err := p.db.NewUpdate().Model(&due).Set("next_at = ?", at.Add(3*p.config.Timeout)).WherePK().
		Where("state = ?", Pending).Where("next_at <= ?", at).Exec(ctx)
	var claimed int64
	if err == nil {
		claimed, err = result.RowsAffected()
	}
	if err != nil {
		return nil, fmt.Errorf("claim delivery %d: %w", due.ID, err)
	}
	if claimed == 0 {
		return nil, nil //nolint:nilnil // the next look finds what is due then
	}
	return &due, nil
}

func (p *poster) post(ctx context.Context, delivery *Delivery) *Attempt {
	attempt := &Attempt{DeliveryID: delivery.ID, At: now()}
	status, err := p.send(ctx, delivery)
	attempt.StatusCode = status
	switch {
	case err != nil:
		attempt.Error = err.Error()
	case status < 200 || status > 299:
		attempt.Error = fmt.Sprintf("the subscriber answered %d %s", status, http.StatusText(status))
	}
	return attempt
}

func (p *poster) send(ctx context.Context, delivery *Delivery) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, delivery.URL, bytes.NewReader(delivery.Body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		return 0, err
	}
	// Reading a little of the body lets the connection be used again.
	_, err = io.CopyN(io.Discard, response.Body, 4<<10)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return response.StatusCode, errors.Join(err, response.Body.Close())
}

// record writes the attempt into the history and decides what becomes of the delivery.
func (p *poster) record(ctx context.Context, delivery *Delivery, attempt *Attempt) error {
	delivery.Tries++
	switch {
	case attempt.Error == "":
		delivery.State = Delivered
	case delivery.Tries >= p.config.MaxAttempts:
		delivery.State = Failed
	default:
		delivery.NextAt = now().Add(p.config.Backoff << min(delivery.Tries-1, maxDoublings))
	}
	err := p.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(attempt).Exec(ctx); err != nil {
			return err
		}
		// Not if it was cancelled meanwhile.
		_, err := tx.NewUpdate().Model(delivery).Column("state", "tries", "next_at").WherePK().
			Where("state = ?", Pending).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("record attempt of delivery %d: %w", delivery.ID, err)
	}
	return nil
}
