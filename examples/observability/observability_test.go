package observability_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/cqrsync/cqrsync/examples/observability"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The files are what the code makes. UPDATE=1 writes them.
func TestTheFilesAreThoseOfTheCode(t *testing.T) {
	for name, make := range map[string]func() ([]byte, error){
		"rules.yml": observability.Rules, "dashboard.json": observability.Dashboard,
	} {
		want, err := make()
		require.NoError(t, err)
		if os.Getenv("UPDATE") != "" {
			require.NoError(t, os.WriteFile(name, want, 0o600))
			continue
		}
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "%s: UPDATE=1 go test ./examples/observability", name)
	}
}

// Grafana's own schema finds no field that it does not know.
func TestTheDashboardKeepsToItsSchema(t *testing.T) {
	text, err := observability.Dashboard()
	require.NoError(t, err)
	// Its error is a list, and not nil where that is empty.
	complaint := func(text []byte) string {
		var read dashboard.Dashboard //nolint:staticcheck // see dashboard.go
		if err := read.UnmarshalJSONStrict(text); err != nil {
			return err.Error()
		}
		return ""
	}
	require.Empty(t, complaint(text))
	require.Contains(t, complaint(bytes.Replace(text, []byte(`"panels"`), []byte(`"panelz"`), 1)), "panelz")
}

// Each alert leads to an entry of the runbook, and asks for series that are there.
func TestAlertsAndPlotsNameWhatIsThere(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	metrics, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	anchor := regexp.MustCompile(`#([a-z0-9-]+)$`)
	for _, a := range observability.Alerts() {
		at := anchor.FindStringSubmatch(a.Annotations["runbook_url"])
		require.NotNil(t, at, a.Alert)
		require.Contains(t, string(page), fmt.Sprintf("<a id=%q></a>", at[1]), a.Alert)
		require.Contains(t, string(page), "`"+a.Alert+"`", "the runbook does not name the alert")
	}
	dashboard, err := observability.Dashboard()
	require.NoError(t, err)
	rules, err := observability.Rules()
	require.NoError(t, err)
	for _, name := range regexp.MustCompile(`cqrsync_[a-z_]+`).FindAllString(string(dashboard)+string(rules), -1) {
		require.Contains(t, string(metrics), "`"+strings.TrimSuffix(name, "_bucket")+"`")
	}
}

// promtool checks the rules, the expressions of the dashboard, and that each alert fires when it
// should and not before.
func TestAlertsFire(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		dbtest.Missing(t, "promtool", "install Debian's package prometheus")
	}
	folder := t.TempDir()
	rules, err := filepath.Abs("rules.yml")
	require.NoError(t, err)
	run := func(args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "promtool %s: %s", args, out)
	}
	run("check", "rules", rules)
	plots := filepath.Join(folder, "plots.yml")
	require.NoError(t, os.WriteFile(plots, asRules(t), 0o600))
	run("check", "rules", plots)
	tests := filepath.Join(folder, "test.yml")
	text, err := yaml.Marshal(map[string]any{
		"rule_files": []string{rules}, "evaluation_interval": "1m", "tests": cases(t),
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(tests, text, 0o600))
	run("test", "rules", tests)
}

// asRules has each expression of the dashboard as a recording rule, because promtool checks those.
func asRules(t *testing.T) []byte {
	t.Helper()
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var all []rule
	for i, expr := range observability.Expressions() {
		all = append(all, rule{fmt.Sprintf("plot:%d", i), expr})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "plots", "rules": all}}})
	require.NoError(t, err)
	return text
}

type (
	series struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	}
	expected struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	}
	check struct {
		At     string     `yaml:"eval_time"`
		Name   string     `yaml:"alertname"`
		Alerts []expected `yaml:"exp_alerts"`
	}
	testCase struct {
		Interval string   `yaml:"interval"`
		Input    []series `yaml:"input_series"`
		Checks   []check  `yaml:"alert_rule_test"`
	}
)

// sick are series with which an alert fires, by its name, and the labels that it has then. Those of
// kinds are made of their names.
var sick = map[string]struct {
	input  []series
	labels map[string]string
}{
	"CqrsyncNoRelayAnswers": {[]series{{`other{job="x"}`, "1x140"}}, map[string]string{}},
	"CqrsyncNothingLeaves": {[]series{
		{`cqrsync_outbox_oldest_age_seconds{job="relay"}`, "100+60x140"},
		{`cqrsync_relay_confirmed_messages_total{job="relay"}`, "10x140"},
	}, map[string]string{"job": "relay"}},
	"CqrsyncReplicaUnreadable": {[]series{{`cqrsync_replica_readable{queue="stats"}`, "0x140"}},
		map[string]string{"queue": "stats"}},
	"CqrsyncReplicaGivesUp": {[]series{{`cqrsync_replica_dead_letters_total{queue="stats",reason="unfit"}`, "0+1x140"}},
		map[string]string{"queue": "stats"}},
	"CqrsyncReplicaReturns": {[]series{{`cqrsync_replica_messages_total{queue="stats",outcome="returned"}`, "0+1x140"}},
		map[string]string{"queue": "stats"}},
	"CqrsyncMasterWentBack": {[]series{{`cqrsync_replica_overtaken_messages_total{queue="stats"}`, "0+1x140"}},
		map[string]string{"queue": "stats"}},
	"CqrsyncTwoMasters": {[]series{{`cqrsync_replica_masters{queue="stats",model="order"}`, "2x140"}},
		map[string]string{"queue": "stats", "model": "order"}},
	"CqrsyncQueueShared": {[]series{{`cqrsync_replica_databases{queue="stats"}`, "2x140"}},
		map[string]string{"queue": "stats"}},
}

var kindOf = regexp.MustCompile(`kind="([a-z-]+)"`)

func cases(t *testing.T) (all []testCase) {
	t.Helper()
	healthy := []series{
		{`cqrsync_relay_ready{job="relay"}`, "1x140"},
		{`cqrsync_outbox_oldest_age_seconds{job="relay"}`, "100x140"}, // a long backlog that moves
		{`cqrsync_relay_confirmed_messages_total{job="relay"}`, "0+100x140"},
		{`cqrsync_replica_readable{queue="stats"}`, "1x140"},
		{`cqrsync_replica_masters{queue="stats",model="order"}`, "1x140"},
		{`cqrsync_replica_databases{queue="stats"}`, "1x140"},
		{`cqrsync_replica_overtaken_messages_total{queue="stats"}`, "5x140"},
		{`cqrsync_replica_dead_letters_total{queue="stats",reason="unfit"}`, "5x140"},
	}
	well := testCase{Interval: "1m", Input: healthy}
	for _, a := range observability.Alerts() {
		if kind := kindOf.FindStringSubmatch(a.Expr); kind != nil {
			well.Input = append(well.Input, series{fmt.Sprintf(`cqrsync_troubles{kind=%q,job="relay"}`, kind[1]), "0x140"})
		}
		well.Checks = append(well.Checks, check{"125m", a.Alert, nil})
		all = append(all, ill(t, a))
	}
	return append(all, well)
}

// ill is a case in which an alert fires, but not before its time.
func ill(t *testing.T, a observability.Alert) testCase {
	t.Helper()
	state, known := sick[a.Alert]
	if kind := kindOf.FindStringSubmatch(a.Expr); kind != nil {
		state.input = []series{{fmt.Sprintf(`cqrsync_troubles{kind=%q,job="relay"}`, kind[1]), "1x140"}}
		state.labels, known = map[string]string{"job": "relay"}, true
	}
	require.True(t, known, "%s: say in this test with what it fires", a.Alert)
	labels, annotations := map[string]string{"severity": a.Labels["severity"]}, map[string]string{}
	for name, value := range state.labels {
		labels[name] = value
	}
	for name, text := range a.Annotations {
		for label, value := range state.labels {
			text = strings.ReplaceAll(text, "{{ $labels."+label+" }}", value)
		}
		annotations[name] = text
	}
	checks := []check{{"125m", a.Alert, []expected{{labels, annotations}}}}
	if a.For != "" {
		wait, err := time.ParseDuration(a.For)
		require.NoError(t, err)
		checks = append(checks, check{(wait - time.Minute).String(), a.Alert, nil})
	}
	return testCase{"1m", state.input, checks}
}
