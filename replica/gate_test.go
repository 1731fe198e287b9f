package replica

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
)

// GateCase is a row of the table "The gate" of the wire format. The tests against databases run them too.
type GateCase struct {
	Name    string
	Ledger  applied.Applied
	Message envelope.Message
	Want    string // outcome
	Settled applied.Applied
}

// GateCases has E = 5 and T = noon where a ledger row has them.
func GateCases() []GateCase {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	before, after := noon.Add(-time.Microsecond), noon.Add(time.Microsecond)
	var unknown time.Time
	row := func(revision int64, updated time.Time) applied.Applied {
		return applied.Applied{Revision: revision, Updated: updated}
	}
	tombstone := func(revision int64, updated time.Time) applied.Applied {
		return applied.Applied{Revision: revision, Updated: updated, Deleted: true}
	}
	message := func(signal envelope.Signal, revision int64, updated time.Time) envelope.Message {
		return envelope.Message{Signal: signal, Revision: revision, Updated: updated}
	}
	following := func(m envelope.Message, after int64) envelope.Message {
		m.After = &after
		return m
	}
	forced := func(m envelope.Message) envelope.Message {
		m.Force = true
		return m
	}
	until := func(t time.Time, m envelope.Message) envelope.Message {
		m.ForceUntil = t
		return m
	}
	none, live, dead := row(applied.NeverApplied, unknown), row(5, noon), tombstone(5, noon)
	const save, del, sync = envelope.Save, envelope.Delete, envelope.Sync
	return []GateCase{
		{"SAVE of an unknown key", none, message(save, 0, noon), "applied", row(0, noon)},
		{"SAVE of an unknown key, not its first", none, following(message(save, 7, noon), 6), "applied", row(7, noon)},
		{"SAVE, next revision", live, message(save, 6, after), "applied", row(6, after)},
		{"SAVE, next revision, clock went back", live, message(save, 6, before), "applied", row(6, noon)},
		{"SAVE, next revision, no time", live, message(save, 6, unknown), "applied", row(6, noon)},
		{"SAVE, a revision is missing", live, message(save, 7, after), "gap", row(7, after)},
		{"SAVE, what was sent before is here", live, following(message(save, 9, after), 5), "applied", row(9, after)},
		{"SAVE, the first that was sent", live, following(message(save, 9, after), envelope.NothingBefore), "applied", row(9, after)},
		{"SAVE, what was sent before is missing", live, following(message(save, 9, after), 8), "gap", row(9, after)},
		{"SAVE, same revision, later", live, message(save, 5, after), "applied", row(5, after)},
		{"SAVE, same revision, same time", live, message(save, 5, noon), "duplicate", live},
		{"SAVE, same revision, earlier", live, message(save, 5, before), "duplicate", live},
		{"SAVE, same revision, no time", live, message(save, 5, unknown), "duplicate", live},
		{"SAVE, same revision, ledger without time", row(5, unknown), message(save, 5, noon), "duplicate", row(5, unknown)},
		{"SAVE, lower revision", live, message(save, 4, before), "stale", live},
		{"SAVE, lower revision, later", live, message(save, 4, after), "stale", live},
		{"SAVE, revision 0, later", live, message(save, 0, after), "applied", row(0, after)},
		{"SAVE, revision 0, same time", live, message(save, 0, noon), "stale", live},
		{"SAVE, revision 0, no time", live, message(save, 0, unknown), "stale", live},
		{"SAVE after DELETE, higher revision", dead, message(save, 6, before), "applied", row(6, noon)},
		{"SAVE after DELETE, later", dead, message(save, 0, after), "applied", row(0, after)},
		{"SAVE after DELETE, late", dead, message(save, 5, noon), "stale", dead},
		{"SAVE after DELETE, late, no time", dead, message(save, 4, unknown), "stale", dead},

		{"SYNC of an unknown key", none, message(sync, 3, noon), "applied", row(3, noon)},
		{"SYNC, higher revision", live, message(sync, 9, after), "applied", row(9, after)},
		{"SYNC, same revision", live, message(sync, 5, noon), "applied", live},
		{"SYNC, same revision, earlier", live, message(sync, 5, before), "applied", live},
		{"SYNC, lower revision, later", live, message(sync, 4, after), "applied", row(4, after)},
		{"SYNC, revision 0, later", live, message(sync, 0, after), "applied", row(0, after)},
		{"SYNC, lower revision, same time", live, message(sync, 4, noon), "stale", live},
		{"SYNC, lower revision, earlier", live, message(sync, 4, before), "stale", live},
		{"SYNC, lower revision, no time", live, message(sync, 4, unknown), "stale", live},
		{"SYNC, lower revision, ledger without time", row(5, unknown), message(sync, 4, noon), "stale", row(5, unknown)},
		{"SYNC, lower revision, same time, forced", live, forced(message(sync, 4, noon)), "applied", row(4, noon)},
		{"SYNC, lower revision, forced", live, forced(message(sync, 4, before)), "applied", row(4, before)},
		{"SYNC after DELETE, higher revision", dead, message(sync, 6, before), "applied", row(6, noon)},
		{"SYNC after DELETE, later", dead, message(sync, 0, after), "applied", row(0, after)},
		{"SYNC of what was deleted here by mistake", dead, message(sync, 5, noon), "applied", live},
		{"SYNC after DELETE, same revision, earlier", dead, message(sync, 5, before), "stale", dead},
		{"SYNC after DELETE, same revision, no time", dead, message(sync, 5, unknown), "stale", dead},
		{"SYNC after DELETE, same revision, tombstone without time", tombstone(5, unknown), message(sync, 5, noon), "stale",
			tombstone(5, unknown)},
		{"SYNC after DELETE, lower revision, same time", dead, message(sync, 4, noon), "stale", dead},
		{"SYNC after DELETE, late", dead, message(sync, 4, before), "stale", dead},
		{"SYNC after DELETE, forced", dead, forced(message(sync, 4, before)), "applied", row(4, before)},
		{"SYNC, lower revision, forced until then", live, until(noon, message(sync, 4, before)), "applied", row(4, before)},
		{"SYNC, lower revision, forced until before", live, until(before, message(sync, 4, before)), "stale", live},
		{"SYNC, higher revision, forced until then", live, until(noon, message(sync, 6, before)), "applied", row(6, noon)},
		{"SYNC, lower revision, forced until then, ledger without time", row(5, unknown), until(noon, message(sync, 4, noon)),
			"applied", row(4, noon)},
		{"SYNC after DELETE, forced until then", dead, until(noon, message(sync, 4, before)), "applied", row(4, before)},
		{"SYNC after DELETE, same revision, earlier, forced until then", dead, until(noon, message(sync, 5, before)), "applied",
			row(5, before)},
		{"SYNC after DELETE, forced until before", dead, until(before, message(sync, 4, before)), "stale", dead},
		{"SAVE, lower revision, forced until then", live, until(noon, message(save, 4, before)), "stale", live},
		{"DELETE, late, forced until then", live, until(noon, message(del, 4, before)), "stale", live},
		{"SAVE, lower revision, forced", live, forced(message(save, 4, before)), "stale", live},

		{"DELETE of an unknown key", none, message(del, 1, noon), "applied", tombstone(1, noon)},
		{"DELETE, higher revision", live, message(del, 6, before), "applied", tombstone(6, noon)},
		{"DELETE, same revision", live, message(del, 5, before), "applied", dead},
		{"DELETE, revision too low, later", live, message(del, 1, after), "applied", tombstone(5, after)},
		{"DELETE, revision too low, same time", live, message(del, 1, noon), "applied", dead},
		{"DELETE, late", live, message(del, 4, before), "stale", live},
		{"DELETE, late, no time", live, message(del, 4, unknown), "stale", live},
		{"DELETE, late, nobody has a time", row(5, unknown), message(del, 4, unknown), "stale", row(5, unknown)},
		{"DELETE after DELETE", dead, message(del, 5, noon), "stale", dead},
		{"DELETE after DELETE, late", dead, message(del, 4, before), "stale", dead},
		{"DELETE after DELETE, higher revision", dead, message(del, 7, after), "applied", tombstone(7, after)},
		{"DELETE after DELETE, later", dead, message(del, 1, after), "applied", tombstone(5, after)},
	}
}

func TestGate(t *testing.T) {
	for _, c := range GateCases() {
		t.Run(c.Name, func(t *testing.T) {
			got := gate(c.Ledger, &c.Message)
			require.Equal(t, c.Want, got.String())
			if got.effective() {
				require.Equal(t, c.Settled, settled(c.Ledger, &c.Message))
			}
		})
	}
}
