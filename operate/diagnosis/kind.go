package diagnosis

import (
	"slices"
	"strings"
)

// Kind says which trouble it is. It is the anchor of its entry in docs/operations.md, a label of
// alerts, and is never changed.
type Kind string

// The kinds, causes before what follows from them.
const (
	DatabaseAway       Kind = "database-away"
	NotMigrated        Kind = "not-migrated"
	Unreadable         Kind = "unreadable"
	NoRelay            Kind = "no-relay"
	BrokerRefuses      Kind = "broker-refuses"
	BrokerFull         Kind = "broker-full"
	BrokerAway         Kind = "broker-away"
	OtherOutage        Kind = "other-outage"
	LanesUnowned       Kind = "lanes-unowned"
	QueueVanished      Kind = "queue-vanished"
	WentBack           Kind = "went-back"
	KeysWait           Kind = "keys-wait"
	DeadLetters        Kind = "dead-letters"
	Stalled            Kind = "stalled"
	BackfillStopped    Kind = "backfill-stopped"
	BackfillLacks      Kind = "backfill-lacks"
	ReplicaSilent      Kind = "replica-silent"
	ReplicaLate        Kind = "replica-late"
	ReplicaDeadLetters Kind = "replica-dead-letters"
	ReplicaWaits       Kind = "replica-waits"
	ReplicaDiffers     Kind = "replica-differs"
	ReplicaUncertain   Kind = "replica-uncertain"
)

// ReplicaDatabaseAway is what only who asks the replica's own database is told, so it is none of
// Kinds.
const ReplicaDatabaseAway Kind = "replica-database-away"

// Kinds returns all kinds, in the order in which troubles are told.
func Kinds() []Kind { return slices.Clone(kinds) }

var kinds = []Kind{
	DatabaseAway, NotMigrated, Unreadable, NoRelay, BrokerRefuses, BrokerFull, BrokerAway, OtherOutage,
	LanesUnowned, QueueVanished, WentBack, KeysWait, DeadLetters, Stalled, BackfillStopped,
	BackfillLacks, ReplicaSilent, ReplicaLate, ReplicaDeadLetters, ReplicaWaits, ReplicaDiffers,
	ReplicaUncertain,
}

// Alert is the name of the kind's alert in Prometheus: CqrsyncBrokerAway.
func (k Kind) Alert() string {
	var name strings.Builder
	name.WriteString("Cqrsync")
	for part := range strings.SplitSeq(string(k), "-") {
		name.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return name.String()
}

func order(k Kind) int { return slices.Index(kinds, k) }

// Sees says of a kind what somebody sees, and Do what the next step is.
func (k Kind) Sees() string { return steps[k].sees }

// Do is the operator's next step.
func (k Kind) Do() string { return steps[k].do }

type step struct{ sees, do string }

var steps = map[Kind]step{
	DatabaseAway: {"the master's database does not answer",
		"Start the database, or correct --db. Nothing is lost, and relays go on by themselves."},
	NotMigrated: {"the master's database has no tables of this version",
		"Run `relay migrate` as the owner of the tables."},
	Unreadable: {"the master's database answers, and its state cannot be read",
		"Mend what the error names; often it is a role without the grants of docs/production.md."},
	NoRelay: {"no relay runs",
		"Start `relay run`. What waits is sent then."},
	BrokerRefuses: {"the broker refuses the login, or the right to publish",
		"Correct user and password in --broker, or the rights of the user on the broker, and " +
			"start the relay again if its address changed."},
	BrokerFull: {"the broker takes no messages, because its disk or memory is full",
		"Make room where the broker runs, or have the queue taken that grows there. What waits is " +
			"sent by itself then."},
	BrokerAway: {"the broker cannot be reached",
		"Start the broker, or correct --broker. Nothing is lost, and relays go on by themselves."},
	OtherOutage: {"a process waits for something that is away",
		"Mend what the error names. The process goes on by itself."},
	LanesUnowned: {"messages wait in lanes that no relay has",
		"Wait for half a minute: live relays take them. If it stays so, start the relays again."},
	QueueVanished: {"the queue of a replica was gone from the broker, with what was in it",
		"Find out who deleted it. It was made again; verify the replica now, which sends what was " +
			"lost."},
	WentBack: {"a replica is ahead: the master's database went back in time",
		"Run `relay sync --force` and the three deleted- stages, as under When the database goes " +
			"back."},
	KeysWait: {"messages wait, because the broker does not take them",
		"Mend what the error names; they are sent by themselves then, or at once with retry."},
	DeadLetters: {"messages were given up",
		"Mend what the error names, then retry them. The rest of the keys goes on."},
	Stalled: {"messages wait, and no relay says why",
		"See the relay's log and /readyz. A transaction that is open for long holds up what was " +
			"committed after it began: end it."},
	BackfillStopped: {"a backfill does not go on",
		"Start a relay with --config, which goes on where it was; else mend what the error names."},
	BackfillLacks: {"a backfill left out rows that cannot be sent",
		"Mend the rows that the error names, then run `relay backfill` once more."},
	ReplicaSilent: {"a replica does not report",
		"Start the replica. If it is gone for good, forget it."},
	ReplicaLate: {"a replica is late",
		"See whether it works: its log, its database, and how much it applies. Start more " +
			"processes of it, or remove what slows its writes."},
	ReplicaDeadLetters: {"a replica has given up messages",
		"Mend what the error names on the replica, then send the keys again."},
	ReplicaWaits: {"messages wait at a replica for what they need",
		"Send the keys again that the error names, and verify the model that they point to."},
	ReplicaDiffers: {"a replica is not as its master",
		"Verify it now. If it stays so, `relay diff` says which keys, and asks before it deletes."},
	ReplicaDatabaseAway: {"a replica's database does not answer",
		"Start the database. The replica holds what it has, and goes on by itself."},
	ReplicaUncertain: {"a comparison ended without answers",
		"See that the replica runs, and verify it now."},
}
