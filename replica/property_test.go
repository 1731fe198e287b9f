package replica_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"pgregory.net/rapid"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// django is the sending side as django-cqrs is: a key that is created again starts at revision 0, a DELETE carries the
// revision of whatever instance was in memory plus one, and two savers may send different states under one revision. Its
// clock grows with every message.
type django struct {
	live map[int64]string
	rev  map[int64]int64
	sent []*envelope.Message
	now  time.Time
}

func newDjango() *django {
	return &django{live: map[int64]string{}, rev: map[int64]int64{}, now: noon}
}

func (m *django) send(message *envelope.Message, revision int64) {
	m.now = m.now.Add(time.Millisecond)
	m.sent = append(m.sent, at(message, revision, m.now))
}

func (m *django) save(id int64, text string) {
	revision := int64(0)
	if _, live := m.live[id]; live {
		revision = m.rev[id] + 1
	}
	m.rev[id], m.live[id] = revision, text
	m.send(save(id, revision, text), revision)
}

// race is a second saver that read the same row as the last one: the same revision, a later state.
func (m *django) race(id int64, text string) {
	m.live[id] = text
	m.send(save(id, m.rev[id], text), m.rev[id])
}

func (m *django) delete(id, stale int64) {
	delete(m.live, id)
	revision := max(m.rev[id]+1-stale, 1)
	m.send(del(id, revision), revision)
}

// P6, P7, P8 with both kinds of masters: the messages of several keys, some twice, in any order between keys (and, for our
// masters, within a key), a crash between any two steps, whatever fits into a batch: the master's state in the end.
//
// A Django master's messages keep their order, but for duplicates that come late within one life of a key. A message of an
// earlier life has a higher revision than the present one, and the gate believes the revision: a clock that is a little
// behind another is more common than a message that is late by a life.
func TestAnythingThatHappensEndsInTheMastersState(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		crashed := errors.New("crashed here")
		var crash func(string) error
		f := newFixtureWith(t, db, replica.Config{})
		f.CrashAt(func(point string) error {
			if crash == nil {
				return nil
			}
			return crash(point)
		})
		mirror[Note](f, "note")
		var base atomic.Int64
		rapid.Check(t, func(t *rapid.T) {
			const keys = 3
			first := base.Add(keys)
			var sent []*envelope.Message
			var live map[int64]string
			if rapid.Bool().Draw(t, "django") {
				sent, live = writeAsDjango(t, first, keys)
			} else {
				sent, live = writeAsOurs(t, first, keys)
			}
			points := rapid.SliceOfN(rapid.IntRange(0, 12), 0, 4).Draw(t, "crashes")
			step := 0
			crash = func(string) error {
				step++
				if slices.Contains(points, step) {
					return crashed
				}
				return nil
			}
			for len(sent) > 0 {
				n := rapid.IntRange(1, min(len(sent), 6)).Draw(t, "batch")
				results, err := f.Apply(context.Background(), onTheWire(t, sent[:n]))
				require.NoError(t, err)
				for _, r := range results {
					require.NoError(t, r.Err)
				}
				sent = sent[n:]
			}
			got := notes(t, db)
			for id := first; id < first+keys; id++ {
				want, isLive := live[id]
				text, there := got[id]
				require.Equal(t, isLive, there, "key %d", id)
				require.Equal(t, want, text, "key %d", id)
			}
		})
	})
}

func writeAsDjango(t *rapid.T, first, keys int64) ([]*envelope.Message, map[int64]string) {
	m := newDjango()
	for i := range rapid.IntRange(1, 10).Draw(t, "writes") {
		id := first + rapid.Int64Range(0, keys-1).Draw(t, "key")
		text := strconv.Itoa(i)
		_, live := m.live[id]
		switch action := rapid.IntRange(0, 3).Draw(t, "action"); {
		case !live || action < 2:
			m.save(id, text)
		case action == 2:
			m.race(id, text)
		default:
			m.delete(id, rapid.Int64Range(0, 2).Draw(t, "stale"))
		}
	}
	var sent []*envelope.Message
	lives := map[string][]*envelope.Message{}
	for _, message := range onTheWire(t, m.sent) {
		sent = append(sent, message)
		if message.Signal == envelope.Save && message.Revision == 0 {
			lives[message.Key] = nil
		}
		lives[message.Key] = append(lives[message.Key], message)
		if rapid.Bool().Draw(t, "again") { // one of the same life comes a second time, late
			life := lives[message.Key]
			sent = append(sent, life[rapid.IntRange(0, len(life)-1).Draw(t, "which")])
		}
	}
	return sent, m.live
}

func writeAsOurs(t *rapid.T, first, keys int64) ([]*envelope.Message, map[int64]string) {
	m := newMaster()
	for i := range rapid.IntRange(1, 10).Draw(t, "writes") {
		id := first + rapid.Int64Range(0, keys-1).Draw(t, "key")
		if _, live := m.rows[id]; live && rapid.Bool().Draw(t, "delete") {
			m.delete(id)
		} else {
			m.write(id, strconv.Itoa(i))
		}
	}
	var sent []*envelope.Message
	for id := first; id < first+keys; id++ {
		for i, message := range m.sent[id] {
			times := rapid.IntRange(0, 2).Draw(t, "times")
			if i == len(m.sent[id])-1 {
				times = max(times, 1)
			}
			for range times {
				sent = append(sent, message)
			}
		}
	}
	return rapid.Permutation(sent).Draw(t, "order"), m.rows
}

// onTheWire are the messages as a replica reads them.
func onTheWire(t require.TestingT, messages []*envelope.Message) []*envelope.Message {
	read := make([]*envelope.Message, len(messages))
	for i, m := range messages {
		body, err := m.Encode()
		require.NoError(t, err)
		read[i], err = envelope.Decode(body, m.Metadata())
		require.NoError(t, err)
	}
	return read
}
