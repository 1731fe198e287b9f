package webhooks

import (
	"context"
	"fmt"
	"net/http"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// newSubscription is the body of POST /subscriptions.
type newSubscription struct {
	URL   string `json:"url"`
	Daily *struct {
		At   string `json:"at"`
		Zone string `json:"zone"`
	} `json:"daily"`
}

// subscribe answers with the secret that deliveries are signed with, this once.
func (s *Service) subscribe(r *http.Request) (web.Response, error) {
	if _, err := web.Parameters(r); err != nil {
		return web.Response{}, err
	}
	in, err := web.Read[newSubscription](r)
	if err != nil {
		return web.Response{}, err
	}
	subscription := &Subscription{URL: in.URL, Secret: newSecret(), CreatedAt: s.config.now()}
	var problems web.InvalidError
	if problem := s.config.Targets.problem(in.URL); problem != "" {
		problems = append(problems, problem)
	}
	if in.Daily != nil {
		subscription.Daily.At, subscription.Daily.Zone = in.Daily.At, in.Daily.Zone
		problems = append(problems, subscription.Daily.start(subscription.CreatedAt)...)
	}
	if len(problems) > 0 {
		return web.Response{}, problems
	}
	n, err := s.db.NewSelect().Model((*Subscription)(nil)).Count(r.Context())
	if err != nil {
		return web.Response{}, err
	}
	if n >= int64(s.config.MaxSubscriptions) {
		problem := fmt.Sprintf("there are %d subscriptions, which is the most", n)
		return web.Response{}, web.ConflictError(problem)
	}
	if _, err := s.db.NewInsert().Model(subscription).Exec(r.Context()); err != nil {
		return web.Response{}, err
	}
	location := fmt.Sprintf("/subscriptions/%d", subscription.ID)
	return web.Response{Status: http.StatusCreated, Location: location, Body: subscription}, nil
}

func (s *Service) subscriptions(r *http.Request) (web.Response, error) {
	if _, err := web.Parameters(r); err != nil {
		return web.Response{}, err
	}
	all := []Subscription{}
	err := s.db.NewSelect().Model(&all).ExcludeColumn("secret").Order("id").Scan(r.Context())
	for i := range all {
		all[i].inUTC()
	}
	return web.Response{Body: map[string]any{"subscriptions": all}}, err
}

func (s *Service) subscription(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	subscription, err := subscriptionOf(r.Context(), s.db, id)
	if err != nil {
		return web.Response{}, err
	}
	subscription.Secret = ""
	return web.Response{Body: subscription}, nil
}

// unsubscribe ends a subscription, and what is still pending for it.
func (s *Service) unsubscribe(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	return web.Response{}, s.inTx(r.Context(), func(ctx context.Context, tx bun.Tx) error {
		result, err := tx.NewDelete().Model(&Subscription{ID: id}).WherePK().Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fmt.Errorf("subscription %d: %w", id, web.ErrNotFound)
		}
		_, err = tx.NewUpdate().Model((*Delivery)(nil)).Set("state = ?", Cancelled).
			Where("subscription_id = ?", id).Where("state = ?", Pending).Exec(ctx)
		return err
	})
}

// subscriptionOf reads one subscription.
func subscriptionOf(ctx context.Context, db bun.IDB, id int64) (*Subscription, error) {
	var found []Subscription
	err := db.NewSelect().Model(&found).Where("id = ?", id).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read subscription %d: %w", id, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("subscription %d: %w", id, web.ErrNotFound)
	}
	found[0].inUTC()
	return &found[0], nil
}

// Secrets are those of the subscriptions of a URL.
func (s *Service) Secrets(ctx context.Context, url string) (secrets []string, err error) {
	err = s.db.NewSelect().Model((*Subscription)(nil)).Column("secret").
		Where("url = ?", url).Scan(ctx, &secrets)
	return secrets, err
}

func (s *Subscription) inUTC() {
	s.CreatedAt, s.Daily.From, s.Daily.Next = s.CreatedAt.UTC(), s.Daily.From.UTC(), s.Daily.Next.UTC()
}
