package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// The model is the table "The gate" of the wire format, line by line, and knows nothing of gate.go.

// lets says that a message has an effect on a key in the state of its ledger row.
func lets(row applied.Applied, m *envelope.Message) bool {
	type state int
	const (
		none state = iota
		live
		deleted
	)
	at := live
	switch {
	case row.Revision == applied.NeverApplied:
		at = none
	case row.Deleted:
		at = deleted
	}
	n, e := m.Revision, row.Revision
	timed := !m.Updated.IsZero() && !row.Updated.IsZero()
	later, sameTime := timed && m.Updated.After(row.Updated), timed && m.Updated.Equal(row.Updated)
	for _, line := range []struct {
		signal envelope.Signal
		at     state
		when   bool
	}{
		{envelope.Save, none, true},
		{envelope.Save, live, n > e},
		{envelope.Save, live, n == e && later},
		{envelope.Save, live, n == 0 && later},
		{envelope.Save, deleted, n > e || later},
		{envelope.Sync, none, true},
		{envelope.Sync, deleted, n > e || later},
		{envelope.Sync, deleted, n == e && sameTime},
		{envelope.Sync, live, n >= e},
		{envelope.Sync, live, later},
		{envelope.Sync, at, m.Force},
		{envelope.Delete, none, true},
		{envelope.Delete, live, n >= e || later || sameTime},
		{envelope.Delete, deleted, n > e || later},
	} {
		if line.signal == m.Signal && line.at == at && line.when {
			return true
		}
	}
	return false
}

// brings is the ledger row after a message had its effect.
func brings(row applied.Applied, m *envelope.Message) applied.Applied {
	next := applied.Applied{Key: row.Key, Revision: m.Revision, Updated: m.Updated, Deleted: m.Signal == envelope.Delete}
	if m.Signal == envelope.Sync && m.Force {
		return next
	}
	if next.Deleted && row.Revision > next.Revision {
		next.Revision = row.Revision
	}
	if row.Updated.After(next.Updated) {
		next.Updated = row.Updated
	}
	return next
}

// covers says that a key in the state of a ledger row has no use for a message any more.
func covers(row applied.Applied, m *envelope.Message) bool {
	return !lets(row, m) || same(brings(row, m), row)
}

// same compares what is known of two rows.
func same(a, b applied.Applied) bool {
	return a.Key == b.Key && a.Revision == b.Revision && a.Deleted == b.Deleted && a.Updated.Equal(b.Updated)
}

// inOrder is the order in which a batch takes the messages of a key: the master's, as far as it can be told.
func inOrder(messages []*simulated) []*simulated {
	if slices.ContainsFunc(messages, func(m *simulated) bool { return m.Force }) {
		return messages
	}
	timed := !slices.ContainsFunc(messages, func(m *simulated) bool { return m.Updated.IsZero() })
	sorted := slices.Clone(messages)
	slices.SortStableFunc(sorted, func(a, b *simulated) int {
		if c := a.Updated.Compare(b.Updated); timed && c != 0 {
			return c
		}
		return int(a.Revision - b.Revision)
	})
	return sorted
}

// checkCommit compares the ledger with what the table makes of the messages in hand, where that is certain: a message
// that waits for the one before it, and one of a HandleBatch that failed, have further rules.
func (s *simulation) checkCommit() {
	for key, messages := range s.inHand {
		want, failures, effects := s.before[key], 0, 0
		for _, m := range inOrder(messages) {
			if s.failed[m.number] {
				failures++
			} else if lets(want, m.Message) {
				want = brings(want, m.Message)
				effects++
			}
		}
		got := s.room.row(key)
		switch {
		case effects == 0 && failures == 0: // so it may have changed meanwhile
		case s.ours && key.Model != newest, failures > 0 && key.Model == newest:
			if s.ours && (got.Revision < s.before[key].Revision) {
				s.fail("%v went back from revision %d to %d", key, s.before[key].Revision, got.Revision)
			}
		case !same(got, want):
			s.fail("the ledger has %+v of %v, and the table makes of %v with %v: %+v", got, key, s.before[key], messages, want)
		}
	}
}

// requireMastersState compares the end with the newest messages that can be applied.
func (s *simulation) requireMastersState() {
	last := map[db.Key]*simulated{}
	for _, m := range s.messages {
		if before := last[m.key()]; !m.dead && (before == nil || m.Revision >= before.Revision) {
			last[m.key()] = m
		}
	}
	for key, m := range last {
		row := s.room.row(key)
		if row.Revision != m.Revision || row.Deleted != (m.Signal == envelope.Delete) {
			s.fail("the ledger has %+v in the end, and the master's last message was %s", row, m)
		}
		if text := s.room.rows[key]; key.Model != outside && text != m.text() {
			s.fail("the row of %v is %q in the end, and the master's last message was %s", key, text, m)
		}
	}
}

// text is what the message makes of the row.
func (m *simulated) text() string {
	if m.Signal == envelope.Delete {
		return ""
	}
	return textOf(m.Revision)
}

func textOf(revision int64) string { return "state " + strconv.FormatInt(revision, 10) }

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// send makes a message, which some handlers do not like.
func (s *simulation) send(signal envelope.Signal, key db.Key, revision int64, updated time.Time, force bool, after *int64) {
	pk := json.RawMessage(key.Key)
	m := &envelope.Message{
		Signal: signal, Model: key.Model, PK: pk, Key: key.Key, Revision: revision, Updated: updated, Force: force, After: after,
		CorrelationID: strconv.Itoa(len(s.messages)),
	}
	m.Data = envelope.DeleteData(pk)
	if signal != envelope.Delete {
		m.Data = json.RawMessage(fmt.Sprintf(`{"id":%s,"text":%q}`, pk, textOf(revision)))
	}
	m.Data = envelope.Stamp(m.Data, revision, updated)
	body, err := m.Encode()
	require.NoError(s.t, err)
	made := &simulated{Message: m, number: len(s.messages), body: body}
	switch s.rand.IntN(12) {
	case 0:
		made.with, made.dead = Permanent(errors.New("poison")), true
	case 1:
		made.with, made.fails = errors.New("not now"), 1+s.rand.IntN(3)
	case 2:
		made.with, made.fails = Retry(10*time.Second, errors.New("in ten seconds")), 1+s.rand.IntN(3)
	case 3:
		if !s.ours {
			made.with, made.fails = Discard(errors.New("of no interest")), 1
		}
	}
	for _, m := range s.messages { // one state is as bad whatever it comes with
		if s.ours && m.key() == key && m.Revision == revision {
			made.with, made.dead = m.with, m.dead
		}
	}
	s.messages = append(s.messages, made)
}

func (s *simulation) anyKey() db.Key {
	models := []string{turn, newest, outside}
	return db.Key{Model: models[s.rand.IntN(len(models))], Key: strconv.Itoa(1 + s.rand.IntN(2))}
}

// writeAsMaster writes as a master of ours: one more revision with each change, and a later time.
func (s *simulation) writeAsMaster() {
	type state struct {
		revision int64
		updated  time.Time
		live     bool
	}
	states := map[db.Key]*state{}
	for i := range 1 + s.rand.IntN(20) {
		key := s.anyKey()
		k, known := states[key]
		if !known {
			k = &state{revision: -1}
			states[key] = k
		}
		if k.live && s.rand.IntN(4) == 0 {
			s.send(envelope.Sync, key, k.revision, k.updated, false, nil)
			continue
		}
		after := k.revision
		if !known {
			after = envelope.NothingBefore
		}
		k.revision, k.updated = k.revision+1, epoch.Add(time.Duration(i)*time.Second)
		signal := envelope.Save
		if k.live && s.rand.IntN(3) == 0 {
			signal = envelope.Delete
		}
		k.live = signal == envelope.Save
		s.send(signal, key, k.revision, k.updated, false, &after)
	}
}

// writeAnything writes what no master would.
func (s *simulation) writeAnything() {
	signals := []envelope.Signal{envelope.Save, envelope.Delete, envelope.Sync}
	for range 1 + s.rand.IntN(20) {
		updated := epoch.Add(time.Duration(s.rand.IntN(6)) * time.Second)
		if s.rand.IntN(10) == 0 {
			updated = time.Time{}
		}
		signal := signals[s.rand.IntN(len(signals))]
		force := signal == envelope.Sync && s.rand.IntN(10) == 0
		s.send(signal, s.anyKey(), int64(s.rand.IntN(6)), updated, force, nil)
	}
}
