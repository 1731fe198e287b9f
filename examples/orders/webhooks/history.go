package webhooks

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// deliveryList answers GET /deliveries: newest first, and the path of the older ones.
type deliveryList struct {
	Deliveries []Delivery `json:"deliveries"`
	Next       string     `json:"next,omitempty"`
}

// deliveries answers GET /deliveries?order=1&subscription=2&state=failed&limit=50&before=17: the
// history with every attempt.
func (s *Service) deliveries(r *http.Request) (web.Response, error) {
	values, err := web.Parameters(r, "order", "subscription", "state", "limit", "before")
	if err != nil {
		return web.Response{}, err
	}
	page, err := web.PageOf(values, "before")
	if err != nil {
		return web.Response{}, err
	}
	list := deliveryList{Deliveries: []Delivery{}}
	query := s.db.NewSelect().Model(&list.Deliveries).ExcludeColumn("body").Relation("Attempts", byID).
		OrderExpr("delivery.id DESC").Limit(int64(page.Limit + 1))
	if page.From > 0 {
		query = query.Where("delivery.id < ?", page.From)
	}
	if query, err = filter(query, values); err != nil {
		return web.Response{}, err
	}
	if err := query.Scan(r.Context()); err != nil {
		return web.Response{}, fmt.Errorf("list deliveries: %w", err)
	}
	if len(list.Deliveries) > page.Limit { // one more than asked for: there is a next page
		list.Deliveries = list.Deliveries[:page.Limit]
		list.Next = web.Next(r, "before", list.Deliveries[page.Limit-1].ID)
	}
	for i := range list.Deliveries {
		list.Deliveries[i].forShow()
	}
	return web.Response{Body: list}, nil
}

func filter(query *bun.SelectQuery, values url.Values) (*bun.SelectQuery, error) {
	columns := map[string]string{"order": "order_id", "subscription": "subscription_id"}
	for name, column := range columns {
		if !values.Has(name) {
			continue
		}
		id, err := web.ID(name, values.Get(name))
		if err != nil {
			return nil, err
		}
		query = query.Where("delivery.? = ?", bun.Ident(column), id)
	}
	if values.Has("state") {
		state := State(values.Get("state"))
		if !slices.Contains([]State{Pending, Delivered, Failed, Cancelled}, state) {
			return nil, web.InvalidError{fmt.Sprintf(
				"state: %s, want pending, delivered, failed or cancelled", web.Quote(string(state)))}
		}
		query = query.Where("delivery.state = ?", state)
	}
	return query, nil
}

// delivery answers GET /deliveries/{id}: with the body that is or was posted.
func (s *Service) delivery(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	var found []Delivery
	err = s.db.NewSelect().Model(&found).Relation("Attempts", byID).
		Where("delivery.id = ?", id).Scan(r.Context())
	if err != nil {
		return web.Response{}, fmt.Errorf("read delivery %d: %w", id, err)
	}
	if len(found) == 0 {
		return web.Response{}, fmt.Errorf("delivery %d: %w", id, web.ErrNotFound)
	}
	found[0].forShow()
	return web.Response{Body: found[0]}, nil
}

func byID(q *bun.SelectQuery) *bun.SelectQuery { return q.OrderExpr("?TableAlias.id") }

// forShow leaves out the next attempt where there is none, and shows times in UTC.
func (d *Delivery) forShow() {
	d.CreatedAt, d.NextAt = d.CreatedAt.UTC(), d.NextAt.UTC()
	if d.State != Pending {
		d.NextAt = time.Time{}
	}
	for _, attempt := range d.Attempts {
		attempt.At = attempt.At.UTC()
	}
}
