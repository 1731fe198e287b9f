package relay

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// laneModel is a lane of an outbox of which all is known: every message by its identity.
type laneModel struct {
	r        *rand.Rand
	drawn    int64
	open     map[string][]int64 // transactions, with what they appended
	there    map[int64]bool     // committed and not removed
	memory   map[int64]bool     // read and not removed
	waits    map[int64]bool     // left out of readings, because its key waits
	names    int64
	sampled  bool // a reading is under way
	before   int64
	writers  queue.Writers
	askedFor bool // keys waited when the reading began
}

func (m *laneModel) write() {
	m.names++
	name := string(rune('a' + m.names%1000))
	for range 1 + m.r.IntN(3) {
		m.drawn++
		m.open[name] = append(m.open[name], m.drawn)
	}
}

// end ends the transactions that chance picks.
func (m *laneModel) end() {
	for _, name := range slices.Sorted(maps.Keys(m.open)) {
		ids := m.open[name]
		if m.r.IntN(3) > 0 {
			continue
		}
		delete(m.open, name)
		for _, id := range ids {
			if m.r.IntN(8) > 0 { // else it is rolled back
				m.there[id] = true
			}
		}
	}
}

// begin is what a reading asks before it reads.
func (m *laneModel) begin(l *lane) {
	m.sampled, m.before, m.askedFor = true, l.high, len(m.waits) > 0
	m.writers = queue.Writers{Open: map[string]bool{}, Drawn: m.drawn}
	for name := range m.open {
		m.writers.Open[name] = true
	}
}

// read is the reading, of up to some messages, and what the lane learns.
func (m *laneModel) read(l *lane) {
	start, most := l.low, 1+m.r.IntN(6)
	if m.r.IntN(5) == 0 {
		start = 0 // it looks back
	}
	p := pass{seen: math.MaxInt64, before: m.before}
	for id := start + 1; id <= m.drawn && most > 0; id++ {
		if !m.there[id] || m.memory[id] || m.waits[id] {
			continue
		}
		if p.first == 0 {
			p.first = id
		}
		p.last, most = id, most-1
		m.memory[id] = true
	}
	if most == 0 {
		p.seen = p.last
	}
	if !m.askedFor && len(m.waits) == 0 && m.r.IntN(4) > 0 {
		p.writers = &m.writers
	}
	m.sampled = false
	l.note(p)
}

// send removes what chance picks of memory, or makes its key wait: then it is read again later.
func (m *laneModel) send(l *lane) {
	for _, id := range slices.Sorted(maps.Keys(m.memory)) {
		switch m.r.IntN(6) {
		case 0:
			delete(m.memory, id)
			delete(m.there, id)
		case 1:
			if m.sampled { // what ends while a reading is under way ends when that has come in
				continue
			}
			delete(m.memory, id)
			m.waits[id] = m.r.IntN(2) == 0
			l.rewind(id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.waits)) {
		if !m.waits[id] || m.r.IntN(3) == 0 {
			delete(m.waits, id)
		}
	}
}

func (m *laneModel) require(t *testing.T, l *lane) {
	t.Helper()
	for id := range m.there {
		require.True(t, id > l.low || m.memory[id], "%d is unsent, and not above %d", id, l.low)
	}
	for name, ids := range m.open {
		require.Greater(t, ids[0], l.low, "%s may commit", name)
	}
}

// Whatever is unsent at or below the low-water mark is in memory, and nothing can be committed there.
func TestALowWaterMarkIsPassedByNothing(t *testing.T) {
	moved := 0
	for seed := range uint64(3000) {
		m := &laneModel{
			r: rand.New(rand.NewPCG(seed, 0)), open: map[string][]int64{}, there: map[int64]bool{},
			memory: map[int64]bool{}, waits: map[int64]bool{},
		}
		l := &lane{}
		for range 60 {
			switch m.r.IntN(5) {
			case 0:
				m.write()
			case 1:
				m.end()
			case 2:
				m.send(l)
			case 3:
				if !m.sampled {
					m.begin(l)
				}
			case 4:
				if m.sampled {
					m.read(l)
				}
			}
			m.require(t, l)
		}
		if l.low > 0 {
			moved++
		}
	}
	require.Greater(t, moved, 1000, "one that never moves passes nothing")
}
