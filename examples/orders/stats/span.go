package stats

import (
	"fmt"
	"net/http"
	"time"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// span is the days of a report, both included, in a time zone.
type span struct {
	from, to time.Time // midnights in zone
	zone     *time.Location
}

// firstYear and lastYear are what all three databases compare rightly.
const (
	firstYear = 1000
	lastDay   = "9999-12-31"
)

// readSpan reads a report's parameters. Without zone days are days in UTC.
func readSpan(r *http.Request) (span, error) {
	values, err := web.Parameters(r, "from", "to", "zone")
	if err != nil {
		return span{}, err
	}
	var problems web.InvalidError
	zone := time.UTC
	if values.Has("zone") {
		if zone, err = web.Zone("zone", values.Get("zone")); err != nil {
			problems = append(problems, err.Error())
			zone = time.UTC
		}
	}
	day := func(name string) time.Time {
		text := values.Get(name)
		t, err := time.ParseInLocation(time.DateOnly, text, zone)
		switch {
		case err != nil:
			problems = append(problems,
				fmt.Sprintf("%s: %s is not a date, want one like 2026-12-31", name, web.Quote(text)))
		case t.Year() < firstYear:
			problems = append(problems, fmt.Sprintf("%s: %s is before the year %d", name, text, firstYear))
		}
		return t
	}
	s := span{from: day("from"), to: day("to"), zone: zone}
	if len(problems) == 0 && s.to.Before(s.from) {
		problems = append(problems, fmt.Sprintf("to: %s is before from", s.to.Format(time.DateOnly)))
	}
	if len(problems) > 0 {
		return s, problems
	}
	return s, nil
}

// begin is the first moment of the span.
func (s span) begin() time.Time { return s.from.UTC() }

// end is the first moment behind the span. The last day that can be written has none: no database
// writes the day after it.
func (s span) end() (end time.Time, bounded bool) {
	if s.to.Format(time.DateOnly) == lastDay {
		return end, false
	}
	return s.to.AddDate(0, 0, 1).UTC(), true
}
