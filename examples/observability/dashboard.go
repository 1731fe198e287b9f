package observability

import (
	"encoding/json"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// panel is a plot: what it is called, in which unit, and of what.
type panel struct{ title, unit, expr, legend string }

// row is a line of plots.
type row struct {
	title  string
	panels []panel
}

var rows = []row{
	{"What is wrong", []panel{
		{"Troubles", "short", `max by (kind) (cqrsync_troubles) > 0`, "{{kind}}"},
		{"Relays ready", "short", `sum(cqrsync_relay_ready)`, "ready"},
		{"Oldest unsent", "s", `max(cqrsync_outbox_oldest_age_seconds)`, "oldest"},
	}},
	{"Master", []panel{
		{"Unsent", "short", `max(cqrsync_outbox_unsent_messages)`, "unsent"},
		{"Published", "cps",
			`sum by (model) (rate(cqrsync_relay_model_published_messages_total[1m]))`, "{{model}}"},
		{"Commit to confirm, p99", "s", `histogram_quantile(0.99, ` +
			`sum by (model, le) (rate(cqrsync_relay_confirm_delay_seconds_bucket[5m])))`, "{{model}}"},
		{"Refused, returned, nacked", "cps",
			`sum(rate(cqrsync_relay_refused_messages_total[5m])) + ` +
				`sum(rate(cqrsync_relay_returned_messages_total[5m])) + ` +
				`sum(rate(cqrsync_relay_nacked_messages_total[5m]))`, "failed"},
		{"Dead letters", "short", `max(cqrsync_outbox_dead_letters)`, "master"},
		{"Lanes owned", "short", `max(cqrsync_outbox_lanes_owned)`, "owned"},
	}},
	{"Replicas", []panel{
		{"Lag", "s", `max by (queue) (cqrsync_master_replica_lag_seconds)`, "{{queue}}"},
		{"Commit to effect, p99", "s", `histogram_quantile(0.99, sum by (queue, model, le) ` +
			`(rate(cqrsync_replica_apply_delay_seconds_bucket[5m])))`, "{{queue}} {{model}}"},
		{"Applied", "cps",
			`sum by (queue, model) (rate(cqrsync_replica_model_applied_messages_total[1m]))`,
			"{{queue}} {{model}}"},
		{"Waiting", "short",
			`max by (queue, model) (cqrsync_master_replica_waiting_messages)`, "{{queue}} {{model}}"},
		{"Dead letters of replicas", "short",
			`max by (queue, model) (cqrsync_master_replica_dead_letters)`, "{{queue}} {{model}}"},
		{"Proven equal, age", "s", `time() - max by (queue, model) ` +
			`(cqrsync_master_replica_equal_through_timestamp_seconds)`, "{{queue}} {{model}}"},
	}},
}

const (
	panelWidth  = 8 // of 24
	panelHeight = 7
)

// Dashboard is the file for Grafana.
func Dashboard() ([]byte, error) {
	//nolint:staticcheck // Grafana 11 and older read no dashboard of the second schema
	b := dashboard.NewDashboardBuilder("cqrsync").Uid("cqrsync").Tags([]string{"cqrsync"}).
		Refresh("30s").Time("now-3h", "now").
		WithVariable(dashboard.NewDatasourceVariableBuilder("source").Type("prometheus"))
	source := dashboard.DataSourceRef{Type: new("prometheus"), Uid: new("${source}")}
	for _, r := range rows {
		b = b.WithRow(dashboard.NewRowBuilder(r.title))
		for _, p := range r.panels {
			b = b.WithPanel(timeseries.NewPanelBuilder().Title(p.title).Unit(p.unit).
				Datasource(source).Span(panelWidth).Height(panelHeight).
				WithTarget(prometheus.NewDataqueryBuilder().Expr(p.expr).LegendFormat(p.legend)))
		}
	}
	made, err := b.Build()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(made, "", "  ")
	return append(text, '\n'), err
}

// Expressions are those of all plots.
func Expressions() (all []string) {
	for _, r := range rows {
		for _, p := range r.panels {
			all = append(all, p.expr)
		}
	}
	return all
}
