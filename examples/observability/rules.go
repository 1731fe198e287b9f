// Package observability makes alerts and a dashboard for Prometheus and Grafana out of what cqrsync
// says about itself: rules.yml and dashboard.json beside it, which a test holds to this code.
//
//	UPDATE=1 go test ./examples/observability
//
// Each alert leads to its entry in docs/operations.md, which has the same words as relay status.
package observability

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

const runbook = "https://github.com/cqrsync/cqrsync/blob/main/docs/operations.md#"

// Alert is one alerting rule.
type Alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type group struct {
	Name  string  `yaml:"name"`
	Rules []Alert `yaml:"rules"`
}

// late are kinds that a running system sees for a while now and then: nobody is woken up for them
// at once.
var late = map[diagnosis.Kind]string{
	diagnosis.KeysWait: "10m", diagnosis.ReplicaLate: "5m", diagnosis.ReplicaSilent: "5m",
	diagnosis.ReplicaWaits: "15m", diagnosis.ReplicaUncertain: "2h", diagnosis.LanesUnowned: "2m",
	diagnosis.BackfillStopped: "10m",
}

// warnings can wait until morning: nothing stands because of them.
var warnings = map[diagnosis.Kind]bool{
	diagnosis.DeadLetters: true, diagnosis.BackfillStopped: true, diagnosis.BackfillLacks: true,
	diagnosis.ReplicaDeadLetters: true, diagnosis.ReplicaWaits: true, diagnosis.ReplicaUncertain: true,
}

// Alerts returns all alerts: one for each kind of trouble that a relay sees, and those of what no
// relay can see.
func Alerts() []Alert {
	var all []Alert
	for _, k := range diagnosis.Kinds() {
		severity, wait := "page", "1m"
		if warnings[k] {
			severity = "warning"
		}
		if late[k] != "" {
			wait = late[k]
		}
		all = append(all, alert(k.Alert(), fmt.Sprintf(`max by (job) (cqrsync_troubles{kind=%q}) > 0`,
			string(k)), wait, severity, k.Sees(), k.Do(), string(k)))
	}
	return append(all, unseen()...)
}

// unseen are the alerts of what no relay can say: because none runs, or because only a replica
// knows.
func unseen() []Alert {
	return []Alert{
		alert("CqrsyncNoRelayAnswers", `absent(cqrsync_relay_ready)`, "2m", "page",
			"no relay answers Prometheus", diagnosis.NoRelay.Do(), string(diagnosis.NoRelay)),
		alert("CqrsyncNothingLeaves",
			`max by (job) (cqrsync_outbox_oldest_age_seconds) > 60 and on (job) `+
				`sum by (job) (rate(cqrsync_relay_confirmed_messages_total[5m])) == 0`, "2m", "page",
			diagnosis.Stalled.Sees(), diagnosis.Stalled.Do(), string(diagnosis.Stalled)),
		alert("CqrsyncReplicaUnreadable", `cqrsync_replica_readable == 0`, "2m", "page",
			"the database of the replica {{ $labels.queue }} does not answer",
			"Start the database. The replica holds what it has, and goes on by itself.",
			"replica-database-away"),
		alert("CqrsyncReplicaGivesUp",
			`sum by (queue) (increase(cqrsync_replica_dead_letters_total[15m])) > 0`, "", "warning",
			"the replica {{ $labels.queue }} gives up messages", diagnosis.ReplicaDeadLetters.Do(),
			string(diagnosis.ReplicaDeadLetters)),
		alert("CqrsyncReplicaReturns",
			`sum by (queue) (rate(cqrsync_replica_messages_total{outcome="returned"}[5m])) > 0`,
			"10m", "page", "the replica {{ $labels.queue }} returns messages to the broker",
			"See its log for what it cannot keep.", "replica-late"),
		alert("CqrsyncMasterWentBack",
			`sum by (queue) (increase(cqrsync_replica_overtaken_messages_total[15m])) > 0`, "",
			"page", "the replica {{ $labels.queue }} has what is later than its master's",
			diagnosis.WentBack.Do(), string(diagnosis.WentBack)),
		alert("CqrsyncTwoMasters", `max by (queue, model) (cqrsync_replica_masters) > 1`, "1m",
			"page", "two masters write {{ $labels.model }} for the replica {{ $labels.queue }}",
			"Stop the one that should not write.", "two-masters"),
		alert("CqrsyncQueueShared", `max by (queue) (cqrsync_replica_databases) > 1`, "1m", "page",
			"two databases share the queue {{ $labels.queue }}, and each gets a part of the messages",
			"Give each service a queue of its own.", "two-databases"),
	}
}

func alert(name, expr, wait, severity, sees, do, anchor string) Alert {
	return Alert{
		Alert: name, Expr: expr, For: wait, Labels: map[string]string{"severity": severity},
		Annotations: map[string]string{
			"summary": sees, "description": do, "runbook_url": runbook + anchor,
		},
	}
}

// Rules is the file for Prometheus.
func Rules() ([]byte, error) {
	return yaml.Marshal(map[string]any{"groups": []group{{"cqrsync", Alerts()}}})
}
