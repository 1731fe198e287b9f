package webhooks

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// historyLimit bounds one answer of GET /deliveries: the newest come first.
const historyLimit = 100

func (s *Service) subscribe(r *http.Request) (web.Response, error) {
	in, err := web.Read[struct {
		URL string `json:"url"`
	}](r)
	if err != nil {
		return web.Response{}, err
	}
	u, err := url.Parse(in.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return web.Response{}, web.InvalidError{fmt.Sprintf("url: %q is not one like http://host/path", in.URL)}
	}
	subscription := &Subscription{URL: in.URL, CreatedAt: now()}
	_, err = s.db.NewInsert().Model(subscription).Exec(r.Context())
	return web.Response{
		Status: http.StatusCreated, Location: fmt.Sprintf("/subscriptions/%d", subscription.ID), Body: subscription,
	}, err
}

func (s *Service) subscriptions(r *http.Request) (web.Response, error) {
	all := []Subscription{}
	err := s.db.NewSelect().Model(&all).Order("id").Scan(r.Context())
	return web.Response{Body: all}, err
}

// unsubscribe ends a subscription, and what is still pending for it.
func (s *Service) unsubscribe(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	return web.Response{}, s.db.RunInTx(r.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
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

// deliveries answers GET /deliveries?order=1, or all of them without the parameter: newest first, with every attempt.
func (s *Service) deliveries(r *http.Request) (web.Response, error) {
	history := []Delivery{}
	query := s.db.NewSelect().Model(&history).OrderExpr("?TableAlias.id DESC").Limit(historyLimit).
		Relation("Attempts", func(q *bun.SelectQuery) *bun.SelectQuery { return q.OrderExpr("?TableAlias.id") })
	if r.URL.Query().Has("order") {
		order, err := web.ID("order", r.URL.Query().Get("order"))
		if err != nil {
			return web.Response{}, err
		}
		query = query.Where("?TableAlias.order_id = ?", order)
	}
	err := query.Scan(r.Context())
	for i := range history {
		if history[i].State != Pending {
			history[i].NextAt = time.Time{} // there is no next attempt
		}
	}
	return web.Response{Body: history}, err
}

// inbox is somewhere to point a first subscription at: it logs what arrives.
func inbox(r *http.Request) (web.Response, error) {
	event, err := web.Read[event](r)
	if err == nil {
		slog.InfoContext(r.Context(), "webhook received",
			"action", event.Action, "order", event.Order.ID, "status", event.Order.Status, "revision", event.Order.Revision)
	}
	return web.Response{}, err
}
