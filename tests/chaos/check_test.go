//go:build unix

package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
)

// key is a row's.
type key struct{ model, pk string }

func (k key) id() int64 {
	n, err := strconv.ParseInt(k.pk, 10, 64)
	if err != nil {
		return -1 // none has this one, so that it is found out
	}
	return n
}

func (k key) String() string { return k.model + " " + k.pk }

// history is everything that was seen of one round, from the outside.
type history struct {
	said     map[string]string // what the writers said of each transaction that they began, last
	journal  []journalRow      // what committed
	master   map[key]Content
	tap      []tapped // what the broker was given, in its order
	replicas map[string]map[key]copied
	effects  []effect // of the replica with a handler
	letters  []string // dead letters, and what still waits at the end
}

// tapped is a message as a queue of the test's own received it.
type tapped struct {
	key      key
	revision int64
	signal   envelope.Signal
	txn      string
	content  Content // of a save
}

// copied is a replica's row.
type copied struct {
	content  Content
	revision int64
}

// promises are the columns of the result.
var promises = []string{"P1", "P3", "P4", "P5", "P6", "P7", "P8", "letters"}

// findings are what broke a promise, per promise.
type findings map[string][]string

func (f findings) add(promise, format string, args ...any) {
	f[promise] = append(f[promise], fmt.Sprintf(format, args...))
}

// check compares a history with the promises. It knows nothing of the library's tables: a key's
// revisions are the places of its transactions in the application's own journal, from 0.
func check(h *history) findings {
	c := &checker{h: h, found: findings{}, byKey: map[key][]journalRow{}, committed: map[string]bool{}}
	for _, j := range h.journal {
		c.byKey[j.key()] = append(c.byKey[j.key()], j)
		c.committed[j.Txn] = true
	}
	for _, rows := range c.byKey {
		slices.SortFunc(rows, func(a, b journalRow) int { return cmp.Compare(a.Seq, b.Seq) })
	}
	c.writers()
	c.messages()
	c.publications()
	c.effects()
	for _, name := range slices.Sorted(maps.Keys(h.replicas)) {
		c.replica(name, h.replicas[name])
	}
	for _, letter := range h.letters {
		c.found.add("letters", "%s", letter)
	}
	return c.found
}

type checker struct {
	h         *history
	found     findings
	byKey     map[key][]journalRow
	committed map[string]bool
}

// at is what the journal says of a revision of a key.
func (c *checker) at(k key, revision int64) (journalRow, bool) {
	rows := c.byKey[k]
	if revision < 0 || revision >= int64(len(rows)) {
		return journalRow{}, false
	}
	return rows[revision], true
}

// last is what the journal says of a key in the end.
func (c *checker) last(k key) journalRow { return c.byKey[k][len(c.byKey[k])-1] }

// writers holds what writers were told against what committed (P1).
func (c *checker) writers() {
	for txn, said := range c.h.said {
		switch {
		case said == saidCommitted && !c.committed[txn]:
			c.found.add("P1", "transaction %s was told that it had committed, and had not", txn)
		case said == saidRolledBack && c.committed[txn]:
			c.found.add("P1", "transaction %s was told that it was rolled back, and had committed", txn)
		}
	}
	for k, rows := range c.byKey {
		for i, j := range rows {
			if j.Seq != int64(i+1) {
				c.found.add("P1", "%s: the journal lacks change %d", k, i+1)
				break
			}
		}
		last := c.last(k)
		row, live := c.h.master[k]
		if live == last.Deleted || live && (row.Txn != last.Txn || row.Seq != last.Seq) {
			c.found.add("P1", "%s: the master has %+v, the journal %+v", k, row, last)
		}
	}
}

// messages holds each message against the transaction that it says it is of (P1), and that one's
// only message about the key, with the state at its commit (P3).
func (c *checker) messages() {
	type change struct {
		txn string
		key key
	}
	revisions := map[change]int64{}
	for _, m := range c.h.tap {
		if !c.committed[m.txn] {
			c.found.add("P1", "%s revision %d is of %q, which did not commit", m.key, m.revision, m.txn)
			continue
		}
		first, again := revisions[change{m.txn, m.key}]
		if again && first != m.revision {
			c.found.add("P3", "%s: transaction %s sent revisions %d and %d", m.key, m.txn, first, m.revision)
			continue
		}
		revisions[change{m.txn, m.key}] = m.revision
		j, there := c.at(m.key, m.revision)
		if !there || j.Txn != m.txn {
			c.found.add("P1", "%s revision %d is of %s, not of %q", m.key, m.revision, m.txn, j.Txn)
			continue
		}
		switch saved := m.signal == envelope.Save; {
		case saved == j.Deleted:
			c.found.add("P3", "%s revision %d is not a %s at commit", m.key, m.revision, m.signal)
		case saved && m.content != (Content{ID: m.key.id(), Seq: j.Seq, Txn: j.Txn, Note: final}):
			c.found.add("P3", "%s revision %d is not %+v at commit", m.key, m.revision, m.content)
		}
	}
}

// publications holds the first publications of each key against the order of its revisions (P4),
// and asks whether every committed revision, or where that does a newer one, is among them (P5).
func (c *checker) publications() {
	seen := map[key]map[int64]bool{}
	newest := map[key]int64{}
	for place, m := range c.h.tap {
		if seen[m.key] == nil {
			seen[m.key] = map[int64]bool{}
			newest[m.key] = -1
		}
		if !seen[m.key][m.revision] && m.revision < newest[m.key] {
			c.found.add("P4", "%s: revision %d left for the first time after %d, as message %d",
				m.key, m.revision, newest[m.key], place)
		}
		seen[m.key][m.revision] = true
		newest[m.key] = max(newest[m.key], m.revision)
	}
	for k, rows := range c.byKey {
		for i, j := range rows {
			revision := int64(i)
			last, some := newest[k]
			if !seen[k][revision] && (k.model == entryModel || !some || last < revision) {
				c.found.add("P5", "%s: revision %d of transaction %s never left", k, revision, j.Txn)
			}
		}
	}
}

// effects asks for exactly one effect of whatever had one, in order (P6), none of a save after a
// newer delete (P7), and one of every key's last revision (P8).
func (c *checker) effects() {
	newest := map[key]int64{}
	for _, e := range c.h.effects {
		k := key{e.Model, strconv.FormatInt(e.ID, 10)}
		j, there := c.at(k, e.Revision)
		switch {
		case e.Times != 1:
			c.found.add("P6", "%s: revision %d had %d effects", k, e.Revision, e.Times)
		case e.Risen:
			c.found.add("P7", "%s: save %d had an effect after a newer delete", k, e.Revision)
		case e.Late:
			c.found.add("P6", "%s: revision %d had an effect after a newer one", k, e.Revision)
		case !there || j.Txn != e.Txn || j.Deleted != e.Deleted:
			c.found.add("P6", "%s: revision %d had the effect %+v, not %+v", k, e.Revision, e, j)
		}
		newest[k] = max(newest[k], e.Revision+1)
	}
	for k, rows := range c.byKey {
		if newest[k] < int64(len(rows)) {
			c.found.add("P8", "%s: %d revisions, the last effect is of number %d", k, len(rows), newest[k])
		}
	}
}

// replica compares a replica's rows with the master's: what is there of a transaction is all of it
// (P6), what was deleted is not there (P7), the rest is equal (P8).
func (c *checker) replica(name string, rows map[key]copied) {
	for k, row := range rows {
		j, there := c.at(k, row.revision)
		whole := Content{ID: k.id(), Seq: j.Seq, Txn: j.Txn, Note: final}
		if _, live := c.h.master[k]; !live {
			c.found.add("P7", "%s: %s has %s, which the master has not", k, name, describe(row))
		} else if !there || row.content != whole {
			c.found.add("P6", "%s: %s has %s, which no transaction wrote", k, name, describe(row))
		}
	}
	for k, row := range c.h.master {
		copied, there := rows[k]
		if !there {
			c.found.add("P8", "%s: %s lacks it", k, name)
		} else if copied.content != row {
			c.found.add("P8", "%s: %s has %s, the master %+v", k, name, describe(copied), row)
		}
	}
}

func describe(c copied) string { return fmt.Sprintf("revision %d with %+v", c.revision, c.content) }

// String lists the first of each promise.
func (f findings) String() string {
	const some = 10
	var text strings.Builder
	for _, promise := range promises {
		for i, finding := range f[promise] {
			if i == some {
				fmt.Fprintf(&text, "  %s: and %d more\n", promise, len(f[promise])-some)
				break
			}
			fmt.Fprintf(&text, "  %s: %s\n", promise, finding)
		}
	}
	return text.String()
}
