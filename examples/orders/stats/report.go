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

// Report answers GET /stats/orders: what was ordered per day and per month of a time zone, without
// the periods in which nothing was.
type Report struct {
	From   string   `json:"from"`
	To     string   `json:"to"`
	Zone   string   `json:"zone"`
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

// orders answers GET /stats/orders?from=2026-11-01&to=2026-11-30&zone=Europe/Berlin.
func (s *Service) orders(r *http.Request) (web.Response, error) {
	span, err := readSpan(r)
	if err != nil {
		return web.Response{}, err
	}
	report, err := s.report(r.Context(), span)
	return web.Response{Body: report}, err
}

// report lets the database add up the minutes, which are the same in every zone; days and months
// are minutes added up.
func (s *Service) report(ctx context.Context, span span) (*Report, error) {
	query := s.db.NewSelect().Model((*Order)(nil)).
		ColumnExpr("? AS minute", minuteOf(s.db)).
		Column("status").
		ColumnExpr("count(*) AS orders").
		ColumnExpr("sum(total) AS total").
		Where("created_at >= ?", span.begin()).
		GroupExpr("1, 2").
		OrderExpr("1, 2")
	if end, bounded := span.end(); bounded {
		query = query.Where("created_at < ?", end)
	}
	rows, err := query.Rows(ctx)
	if err != nil {
		return nil, fmt.Errorf("sum up orders: %w", err)
	}
	defer rows.Close()
	report := &Report{
		From: span.from.Format(time.DateOnly), To: span.to.Format(time.DateOnly),
		Zone: span.zone.String(), Days: []Period{}, Months: []Period{},
	}
	for rows.Next() {
		var text, status string
		var sum Count
		if err := rows.Scan(&text, &status, &sum.Orders, &sum.Total); err != nil {
			return nil, fmt.Errorf("read sum of orders: %w", err)
		}
		minute, err := time.Parse(minuteFormat, text)
		if err != nil {
			return nil, fmt.Errorf("read minute of orders: %w", err)
		}
		local := minute.In(span.zone)
		report.Days = add(report.Days, local.Format(time.DateOnly), status, sum)
		report.Months = add(report.Months, local.Format("2006-01"), status, sum)
	}
	return report, rows.Err()
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

const minuteFormat = "2006-01-02 15:04"

// minuteOf is an expression for the minute of created_at in UTC, as text. SQLite keeps times as
// text that begins with it.
func minuteOf(db *bun.DB) bun.Safe {
	switch db.Dialect().Name() {
	case dialect.SQLite:
		return "substr(created_at, 1, 16)"
	case dialect.MySQL: // which keeps the time in UTC, without its zone
		return "date_format(created_at, '%Y-%m-%d %H:%i')"
	default:
		return "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')"
	}
}
