package orders

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// List answers GET /orders: a part of the orders in order of their ids, and the path of the next
// part.
type List struct {
	Orders []Summary `json:"orders"`
	Next   string    `json:"next,omitempty"`
}

// Summary is an order without its lines, of which there may be many.
type Summary struct {
	bun.BaseModel `bun:"table:orders"`

	ID        int64     `json:"id"`
	Customer  string    `json:"customer"`
	Status    string    `json:"status"`
	Total     int64     `json:"total"` // cents
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// list answers GET /orders?status=paid&limit=50&after=17.
func (s *Service) list(r *http.Request) (web.Response, error) {
	values, err := web.Parameters(r, "status", "limit", "after")
	if err != nil {
		return web.Response{}, err
	}
	page, err := web.PageOf(values, "after")
	if err != nil {
		return web.Response{}, err
	}
	list := List{Orders: []Summary{}}
	query := s.db.NewSelect().Model(&list.Orders).
		Where("id > ?", page.From).Order("id").Limit(int64(page.Limit + 1))
	if values.Has("status") {
		status := values.Get("status")
		if !slices.Contains(Statuses, status) {
			return web.Response{}, web.InvalidError{badStatus(status)}
		}
		query = query.Where("status = ?", status)
	}
	if err := query.Scan(r.Context()); err != nil {
		return web.Response{}, fmt.Errorf("list orders: %w", err)
	}
	if len(list.Orders) > page.Limit { // one more than asked for: there is a next page
		list.Orders = list.Orders[:page.Limit]
		list.Next = web.Next(r, "after", list.Orders[page.Limit-1].ID)
	}
	for i := range list.Orders {
		o := &list.Orders[i]
		o.CreatedAt, o.UpdatedAt = o.CreatedAt.UTC(), o.UpdatedAt.UTC()
	}
	return web.Response{Body: list}, nil
}

func badStatus(status string) string {
	return fmt.Sprintf("status: %s, want one of %s", web.Quote(status), strings.Join(Statuses, ", "))
}
