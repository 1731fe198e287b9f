package soak

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/envelope"
)

// traffic makes what a master sends, the way a bad day delivers it: 5 % twice, 5 % late, 1 % that nobody can apply. The
// same seed makes the same traffic. It keeps a row per key and what is late, so that its memory does not grow.
type traffic struct {
	t       require.TestingT
	random  *rand.Rand
	keys    int
	now     time.Time
	rows    map[int64]*masterRow
	delayed delayed
	sent    int
	poison  int
}

// masterRow is the state of a key on the master.
type masterRow struct {
	revision int64
	live     bool
	total    int64
}

func newTraffic(t require.TestingT, seed uint64, keys int) *traffic {
	return &traffic{
		t: t, random: rand.New(rand.NewPCG(seed, seed)), keys: keys, rows: map[int64]*masterRow{},
		now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
	}
}

// next returns the messages that are published in one step, in order.
func (tr *traffic) next() (due []*message.Message) {
	tr.sent++
	chance := func(percent float64) bool { return tr.random.Float64()*100 < percent }
	msg := tr.write()
	if chance(1) {
		due = append(due, tr.bad())
	}
	if chance(5) {
		tr.later(msg, 500) // once more
	}
	if chance(5) {
		tr.later(msg, 50) // and not now
	} else {
		due = append(due, msg)
	}
	for len(tr.delayed) > 0 && tr.delayed[0].at <= tr.sent {
		due = append(due, heap.Pop(&tr.delayed).(late).message)
	}
	return due
}

// rest returns what is late when everything was written.
func (tr *traffic) rest() (due []*message.Message) {
	for len(tr.delayed) > 0 {
		due = append(due, heap.Pop(&tr.delayed).(late).message)
	}
	return due
}

// write changes a random row of the master.
func (tr *traffic) write() *message.Message {
	id := tr.random.Int64N(int64(tr.keys))
	tr.now = tr.now.Add(time.Millisecond)
	row := tr.rows[id]
	if row == nil {
		row = &masterRow{revision: -1}
		tr.rows[id] = row
	}
	row.revision++
	m := &envelope.Message{Signal: envelope.Save, Model: "order", PK: fmt.Appendf(nil, "%d", id), Revision: row.revision, Updated: tr.now}
	if row.revision > 0 {
		after := row.revision - 1
		m.After = &after
	}
	if row.live && tr.random.IntN(10) == 0 {
		row.live, m.Signal = false, envelope.Delete
		m.Data = envelope.DeleteData(m.PK)
	} else {
		row.live, row.total = true, tr.random.Int64N(1_000_000)
		m.Data = fmt.Appendf(nil, `{"id":%d,"total":%d,"note":"a note of about the length that notes have"}`, id, row.total)
	}
	return tr.encode(m)
}

func (tr *traffic) encode(m *envelope.Message) *message.Message {
	m.Data = envelope.Stamp(m.Data, m.Revision, m.Updated)
	body, err := m.Encode()
	require.NoError(tr.t, err)
	msg := message.NewMessage(watermill.NewUUID(), body)
	msg.Metadata = m.Metadata()
	return msg
}

// bad makes a message that can never be applied, of each kind in turn, with poison-<number> in it and a key of its own.
func (tr *traffic) bad() *message.Message {
	tr.poison++
	id := int64(1_000_000 + tr.poison)
	m := &envelope.Message{Signal: envelope.Save, Model: "order", PK: fmt.Appendf(nil, "%d", id), Updated: tr.now}
	switch tr.poison % 4 {
	case 0:
		return message.NewMessage(watermill.NewUUID(), fmt.Appendf(nil, `{"signal_type":"SAVE","note":"poison-%d"`, tr.poison))
	case 1:
		m.Data = fmt.Appendf(nil, `{"id":%d,"total":"many","note":"poison-%d"}`, id, tr.poison)
	case 2:
		m.Data = fmt.Appendf(nil, `{"id":%d,"total":-1,"note":"poison-%d"}`, id, tr.poison) // the table refuses it
	default:
		m.Model = "unknown"
		m.Data = fmt.Appendf(nil, `{"id":%d,"note":"poison-%d"}`, id, tr.poison)
	}
	return tr.encode(m)
}

func (tr *traffic) later(msg *message.Message, steps int) {
	again := message.NewMessage(watermill.NewUUID(), msg.Payload)
	again.Metadata = msg.Metadata
	heap.Push(&tr.delayed, late{tr.sent + 1 + tr.random.IntN(steps), again})
}

type late struct {
	at      int
	message *message.Message
}

type delayed []late

func (d delayed) Len() int           { return len(d) }
func (d delayed) Less(i, j int) bool { return d[i].at < d[j].at }
func (d delayed) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *delayed) Push(x any)        { *d = append(*d, x.(late)) }
func (d *delayed) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}
