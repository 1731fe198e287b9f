package relay

import (
	"slices"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// outgoing is a claimed message on its way, with the older ones of its key that it replaces and
// that are still in the outbox.
type outgoing struct {
	*queue.Claimed
	replaced []*queue.Claimed
	follows  bool // its key's last one was confirmed a moment ago
}

// flow is what was claimed and is not written down yet.
//
// A key has one message on its way to the broker. The next one follows when that is confirmed, and
// not at all if it failed: so nothing overtakes (P4), with any publisher. What came between and may
// be replaced is replaced meanwhile, so that a busy key does not move at one revision per answer of
// the broker, but at one state. It leaves once what it replaces is gone from the outbox, see
// supersede.
type flow struct {
	batch     int
	replacing []outgoing // next of their keys, but what they replace is still in the outbox
	ready     []outgoing // first of their keys, in the order of the claims
	followers []outgoing // their key's last one was just confirmed
	keys      map[queue.Key]*lineup
	known     map[int64]int // lanes of all messages here, by identity
	newest    *recent       // the newest revision of a key that came in here; nil if nobody asks
	behind    int           // how many messages stand behind another of their key

	// What ends while a claim is running may have been read by it before, so it ends when that
	// claim has come in.
	leaving []leaving
	roomy   []queue.Key // keys that have room again
}

// leaving is what ends together: single messages, and keys whose message failed.
type leaving struct {
	messages []*queue.Claimed
	failed   []queue.Failure
}

// lineup is a key with a message on its way, and those behind it. When the message has failed they
// stay behind it until that is written down.
type lineup struct {
	behind []outgoing
	failed outgoing
	idle   bool           // nothing is on its way
	more   *queue.Claimed // the first one there was no room for, nil if there was room
}

func newFlow(cfg Config) flow {
	f := flow{batch: cfg.BatchSize, keys: map[queue.Key]*lineup{}, known: map[int64]int{}}
	if cfg.Handover != nil {
		f.newest = newRecent()
	}
	return f
}

func keyOf(m *queue.Claimed) queue.Key { return queue.Key{Model: m.Model, Key: m.Key} }

// except is what a claim need not bring, of what is behind its starts.
func (f *flow) except(starts []queue.Start) (e queue.Except) {
	after := make(map[int]int64, len(starts))
	for _, s := range starts {
		after[s.Lane] = s.After
	}
	e.IDs = make([]int64, 0, len(f.known))
	for id, lane := range f.known {
		if start, asked := after[lane]; asked && id > start {
			e.IDs = append(e.IDs, id)
		}
	}
	for key, q := range f.keys {
		if q.more != nil {
			e.Keys = append(e.Keys, key)
		}
	}
	return e
}

// add takes in what a claim brought and returns how many messages that were. The rest is known, or
// there is no room for it.
func (f *flow) add(claimed []*queue.Claimed, owned lanes) (added int) {
	fresh := make([]*lineup, 0, len(claimed)) // in the order of the claim
	for _, m := range claimed {
		if _, known := f.known[m.ID]; known {
			continue
		}
		key := keyOf(m)
		q := f.keys[key]
		if q == nil {
			q = &lineup{}
			f.keys[key] = q
			fresh = append(fresh, q)
		}
		if q.more == nil && !f.room(q) {
			q.more = m
			owned.of(m.Lane).block(m.ID)
		}
		if q.more != nil {
			continue
		}
		added++
		f.line(key, q, m)
	}
	for _, q := range fresh {
		f.start(f.next(q))
	}
	return added
}

// line puts a message behind those of its key.
func (f *flow) line(key queue.Key, q *lineup, m *queue.Claimed) {
	f.known[m.ID] = m.Lane
	f.newest.put(key, m.Revision)
	length := len(q.behind)
	q.behind = follow(q.behind, outgoing{Claimed: m})
	f.behind += len(q.behind) - length
}

// room says whether another message may stand behind those of its key. Few may, of all keys
// together, or a key that moves slowly would fill the memory and hold up all others.
func (f *flow) room(q *lineup) bool {
	return len(q.behind) == 0 || len(q.behind) < f.batch && f.behind < 4*f.batch
}

// follow puts a message behind the others of its key. If both allow it, the message replaces the
// one before it and takes over its After: the replaced message never leaves, so nobody may miss it.
//
// A look back may bring one that is older than those in memory, such as a row that was put behind
// the marks. It goes before them: did it replace them, the newest state would never leave (P5).
func follow(behind []outgoing, m outgoing) []outgoing {
	last := len(behind) - 1
	if last >= 0 && m.ID < behind[last].ID {
		at := slices.IndexFunc(behind, func(other outgoing) bool { return other.ID > m.ID })
		return slices.Insert(behind, at, m)
	}
	if last < 0 || !m.Replaceable() || !behind[last].Replaceable() {
		return append(behind, m)
	}
	old := behind[last]
	m.After = old.After
	m.Failed = m.Failed || old.Failed // which ends for the key when this one is sent
	old.Data, old.Meta = nil, nil     // it is only to be removed
	m.replaced = slices.Concat(old.replaced, []*queue.Claimed{old.Claimed})
	behind[last] = m
	return behind
}

// start puts a message that is the next of its key on its way.
func (f *flow) start(m outgoing) {
	switch {
	case len(m.replaced) > 0:
		f.replacing = append(f.replacing, m)
	case m.follows:
		f.followers = append(f.followers, m)
	default:
		f.ready = append(f.ready, m)
	}
}

// superseded lets a message go when what it replaced is gone.
func (f *flow) superseded(m outgoing) {
	f.leaving = append(f.leaving, leaving{messages: m.replaced})
	m.replaced = nil
	f.start(m)
}

// again has the messages of a key read once more.
func (f *flow) again(m *outgoing) {
	f.failed(m)
	f.leaving = append(f.leaving, leaving{failed: []queue.Failure{{Claimed: m.Claimed}}})
}

// waiting is how many messages are the next of their keys.
func (f *flow) waiting() int { return len(f.replacing) + len(f.ready) + len(f.followers) }

func (f *flow) next(q *lineup) outgoing {
	m := q.behind[0]
	q.behind = q.behind[1:]
	f.behind--
	return m
}

// take hands out up to n messages of a list.
func take(list *[]outgoing, n int) []outgoing {
	n = min(n, len(*list))
	batch := (*list)[:n:n]
	*list = (*list)[n:]
	return batch
}

// confirmed lets the next message of the key go.
func (f *flow) confirmed(m *outgoing) {
	key := keyOf(m.Claimed)
	q := f.keys[key]
	if q.more != nil && (len(q.behind) == f.batch/4 || len(q.behind) == 0) {
		f.roomy = append(f.roomy, key)
	}
	switch {
	case len(q.behind) > 0:
		next := f.next(q)
		next.Attempts, next.Failed = 0, false // that was the one before
		next.follows = true
		f.start(next)
	case q.more != nil:
		q.idle = true
	default:
		delete(f.keys, key)
	}
}

// failed keeps the key as it is until the failure is written down.
func (f *flow) failed(m *outgoing) { f.keys[keyOf(m.Claimed)].failed = *m }

// written is called when an outcome is.
func (f *flow) written(done queue.Outcome) {
	f.leaving = append(f.leaving, leaving{messages: done.Sent,
		failed: slices.Concat(done.Failed, done.Dead)})
}

// letGo ends what has ended. No claim may be running.
func (f *flow) letGo(owned lanes) {
	for _, done := range f.leaving {
		for _, m := range done.messages {
			delete(f.known, m.ID)
		}
		for _, m := range done.failed {
			f.drop(m.Claimed, owned)
		}
	}
	f.leaving = nil
	for _, key := range f.roomy {
		f.makeRoom(key, owned)
	}
	f.roomy = nil
}

// makeRoom lets the messages of a key be read that there was no room for.
func (f *flow) makeRoom(key queue.Key, owned lanes) {
	q := f.keys[key]
	if q == nil || q.more == nil {
		return
	}
	lane := q.more.Lane
	q.more = nil
	if q.idle {
		delete(f.keys, key)
	}
	f.unblock(lane, owned)
}

// unblock lets the low-water mark of a lane move when there is room for all its keys.
func (f *flow) unblock(lane int, owned lanes) {
	for _, q := range f.keys {
		if q.more != nil && q.more.Lane == lane {
			return
		}
	}
	if l := owned.of(lane); l != nil {
		l.unblock()
	}
}

// drop forgets a message that failed and all behind it: they are read again when the key's time has
// come.
func (f *flow) drop(m *queue.Claimed, owned lanes) {
	key := keyOf(m)
	q := f.keys[key]
	if q == nil { // the lanes were lost meanwhile
		return
	}
	delete(f.keys, key)
	f.newest.put(key, dropped)
	f.behind -= len(q.behind)
	for _, gone := range append(q.behind, q.failed) {
		for _, one := range append(gone.replaced, gone.Claimed) {
			delete(f.known, one.ID)
			if l := owned.of(one.Lane); l != nil {
				l.rewind(one.ID)
			}
		}
	}
	if q.more != nil {
		f.unblock(m.Lane, owned)
	}
}
