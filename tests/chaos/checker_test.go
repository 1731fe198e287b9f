//go:build unix

package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
)

// A checker that sees nothing finds nothing: it is shown what must count, one thing at a time.
func TestTheCheckerSeesEveryKindOfFault(t *testing.T) {
	t.Parallel()
	requireSees(t, rightHistory)
}

// requireSees breaks a right history in every way there is and expects each to count under its
// promise.
func requireSees(t *testing.T, right func() *history) {
	t.Helper()
	require.Empty(t, check(right()), "the history is right")
	for _, m := range mutations {
		h := right()
		m.breaks(h)
		require.NotEmpty(t, check(h)[m.promise], "%s is not seen", m.name)
	}
}

type mutation struct {
	promise, name string
	breaks        func(*history)
}

var mutations = []mutation{
	{"P1", "a message of a transaction that did not commit", func(h *history) {
		h.tap = append(h.tap, tapped{
			key: h.tap[0].key, revision: 1 << 40, signal: envelope.Save, txn: "never",
		})
	}},
	{"P1", "a transaction that committed and was told otherwise", func(h *history) {
		h.said[h.journal[0].Txn] = saidRolledBack
	}},
	{"P1", "a transaction that was told that it committed, and did not", func(h *history) {
		h.said["never"] = saidCommitted
	}},
	{"P1", "a revision that is another transaction's", func(h *history) {
		i := h.twice()
		first, second := h.published(i)
		h.tap[first].txn, h.tap[second].txn = h.tap[second].txn, h.tap[first].txn
	}},
	{"P3", "a second revision of one transaction", func(h *history) {
		again := h.tap[0]
		again.revision++
		h.tap = append(h.tap, again)
	}},
	{"P3", "the state before the commit", func(h *history) { h.tap[h.save()].content.Note = draft }},
	{"P3", "a save sent as a delete", func(h *history) { h.tap[h.save()].signal = envelope.Delete }},
	{"P4", "revisions in the wrong order", func(h *history) {
		first, second := h.published(h.twice())
		h.tap[first], h.tap[second] = h.tap[second], h.tap[first]
	}},
	{"P5", "a lost message", func(h *history) { h.lose(h.last(itemModel)) }},
	{"P5", "a lost message of a model that sends every revision", func(h *history) {
		h.lose(h.first(entryModel))
	}},
	{"P6", "an event applied twice", func(h *history) { h.effects[0].Times = 2 }},
	{"P6", "an event applied after a newer one", func(h *history) { h.effects[0].Late = true }},
	{"P6", "an effect of another transaction", func(h *history) { h.effects[0].Txn = "never" }},
	{"P6", "a row that no transaction wrote", func(h *history) {
		h.alter(func(c *copied) { c.revision++ })
	}},
	{"P7", "a row that was deleted", func(h *history) {
		for k, row := range h.replicas[mirrorRole] {
			delete(h.master, k)
			h.replicas[mirrorRole][k] = row
			return
		}
	}},
	{"P7", "a save after a newer delete", func(h *history) {
		h.effects[0].Late, h.effects[0].Risen = true, true
	}},
	{"P8", "a row that a replica lacks", func(h *history) {
		rows := h.replicas[mirrorRole]
		delete(rows, slices.Collect(maps.Keys(rows))[0])
	}},
	{"P8", "a row that differs", func(h *history) {
		h.alter(func(c *copied) { c.content.Txn = "older" })
	}},
	{"P8", "a last event without an effect", func(h *history) {
		k := h.last(itemModel).key
		h.effects = slices.DeleteFunc(h.effects, func(e effect) bool {
			return e.Model == k.model && e.ID == k.id()
		})
	}},
	{"letters", "a dead letter", func(h *history) { h.letters = append(h.letters, "one") }},
}

// alter changes some row of a replica.
func (h *history) alter(change func(*copied)) {
	for k, row := range h.replicas[effectsRole] {
		change(&row)
		h.replicas[effectsRole][k] = row
		return
	}
}

// save is the place of some save in the tap.
func (h *history) save() int {
	return slices.IndexFunc(h.tap, func(m tapped) bool { return m.signal == envelope.Save })
}

// first is some message of a model that is its key's first, last one that is its key's last.
func (h *history) first(model string) tapped {
	return h.tap[slices.IndexFunc(h.tap, func(m tapped) bool {
		return m.key.model == model && m.revision == 0
	})]
}

func (h *history) last(model string) tapped {
	count := map[key]int64{}
	for _, j := range h.journal {
		count[j.key()]++
	}
	return h.tap[slices.IndexFunc(h.tap, func(m tapped) bool {
		return m.key.model == model && m.revision == count[m.key]-1
	})]
}

// twice is a key of which revisions 0 and 1 left.
func (h *history) twice() key {
	return h.tap[slices.IndexFunc(h.tap, func(m tapped) bool {
		return m.key.model == entryModel && m.revision == 1
	})].key
}

// published are the places at which revisions 0 and 1 of a key left first.
func (h *history) published(k key) (first, second int) {
	at := func(revision int64) int {
		return slices.IndexFunc(h.tap, func(m tapped) bool {
			return m.key == k && m.revision == revision
		})
	}
	return at(0), at(1)
}

// lose takes every copy of a message out of the tap.
func (h *history) lose(lost tapped) {
	h.tap = slices.DeleteFunc(h.tap, func(m tapped) bool {
		return m.key == lost.key && m.revision == lost.revision
	})
}

// rightHistory is a small one in which nothing is wrong: keys that are saved, saved, deleted and,
// every second, saved again, some of whose messages came twice; of items the second revision was
// replaced.
func rightHistory() *history {
	h := &history{
		said: map[string]string{}, master: map[key]Content{},
		replicas: map[string]map[key]copied{mirrorRole: {}, effectsRole: {}},
	}
	for id := range int64(4) {
		for _, model := range []string{itemModel, entryModel} {
			k := key{model, strconv.FormatInt(id, 10)}
			for revision := range 3 + id%2 {
				txn := fmt.Sprintf("%s-%d", k, revision)
				h.said[txn] = []string{saidCommitted, saidUnknown}[revision%2]
				deleted := revision == 2
				h.journal = append(h.journal, journalRow{
					Model: model, ID: id, Seq: revision + 1, Txn: txn, Deleted: deleted,
				})
				m := tapped{key: k, revision: revision, txn: txn, signal: envelope.Delete}
				if !deleted {
					m.signal = envelope.Save
					m.content = Content{ID: id, Seq: revision + 1, Txn: txn, Note: final}
				}
				if model == itemModel && revision == 1 {
					continue
				}
				h.tap = append(h.tap, m, m)
				h.effects = append(h.effects, effect{
					Model: model, ID: id, Revision: revision, Times: 1, Deleted: deleted, Txn: txn,
				})
				if revision == 3 {
					h.master[k] = m.content
					for _, rows := range h.replicas {
						rows[k] = copied{m.content, revision}
					}
				}
			}
		}
	}
	h.said["undone"] = saidRolledBack
	h.said["lost"] = saidUnknown
	return h
}
