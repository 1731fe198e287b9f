package stats

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// Report answers GET /stats/orders: what was ordered per day and per month (UTC), without the periods in which nothing
// was.
type Report struct {
	From   string   `json:"from"`
	To     string   `json:"to"`
	Days   []Period `json:"days"`
	Months []Period `json:"months"`
}

// Period is one day (2026-11-22) or month (2026-11).
type Period struct {
	Period   string           `json:"period"`
	Orders   int64            `json:"orders"`
	Total    int64            `json:"total"` // cents
	ByStatus map[string]Count `json:"by_status"`
}

// Count is the part of a period's orders that has one status.
type Count struct {
	Orders int64 `json:"orders"`
	Total  int64 `json:"total"` // cents
}

func (s *Service) orders(r *http.Request) (web.Response, error) {
	from, to, err := days(r)
	if err != nil {
		return web.Response{}, err
	}
	report, err := s.report(r.Context(), from, to)
	return web.Response{Body: report}, err
}

// days reads the first and the last day of a report.
func days(r *http.Request) (from, to time.Time, err error) {
	var problems web.InvalidError
	day := func(name string) time.Time {
		text := r.URL.Query().Get(name)
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %q is not a date, want one like 2026-12-31", name, text))
		}
		return t
	}
	from, to = day("from"), day("to")
	if len(problems) == 0 && to.Before(from) {
		problems = append(problems, fmt.Sprintf("to: %s is before from", to.Format(time.DateOnly)))
	}
	if len(problems) > 0 {
		return from, to, problems
	}
	return from, to, nil
}

// report lets the database add up the days; the months are the days added up.
func (s *Service) report(ctx context.Context, from, to time.Time) (*Report, error) {
	var sums []struct {
		Day    string
		Status string
		Count
	}
	err := s.db.NewSelect().Model((*Order)(nil)).
		ColumnExpr("? AS day", dayOf(s.db)).
		Column("status").
		ColumnExpr("count(*) AS orders").
		ColumnExpr("sum(total) AS total").
		Where("created_at >= ?", from).
		Where("created_at < ?", to.AddDate(0, 0, 1)).
		GroupExpr("1, 2").
		OrderExpr("1, 2").
		Scan(ctx, &sums)
	if err != nil {
		return nil, fmt.Errorf("sum up orders: %w", err)
	}
	report := &Report{
		From: from.Format(time.DateOnly), To: to.Format(time.DateOnly), Days: []Period{}, Months: []Period{},
	}
	for _, sum := range sums {
		report.Days = add(report.Days, sum.Day, sum.Status, sum.Count)
		report.Months = add(report.Months, sum.Day[:len("2026-11")], sum.Status, sum.Count)
	}
	return report, nil
}

// add counts into the last period, or begins the next: sums come in order of their days.
func add(periods []Period, name, status string, sum Count) []Period {
	if len(periods) == 0 || periods[len(periods)-1].Period != name {
		periods = append(periods, Period{Period: name, ByStatus: map[string]Count{}})
	}
	last := &periods[len(periods)-1]
	last.Orders += sum.Orders
	last.Total += sum.Total
	count := last.ByStatus[status]
	last.ByStatus[status] = Count{count.Orders + sum.Orders, count.Total + sum.Total}
	return periods
}

// dayOf is an expression for the day of created_at in UTC, as text. SQLite keeps times as text that begins with it.
func dayOf(db *bun.DB) bun.Safe {
	switch db.Dialect().Name() {
	case dialect.SQLite:
		return "substr(created_at, 1, 10)"
	case dialect.MySQL: // which keeps the time in UTC, without its zone
		return "date_format(created_at, '%Y-%m-%d')"
	default:
		return "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
	}
}
