// Package replicatest lets a team's own tests try what their replica does with the messages of a
// master, without a master and without a broker.
//
//	kit := replicatest.New(t, db, replica.Config{Queue: "stats"}, registerModels)
//	kit.Save("order", 7, map[string]any{"id": 7, "status": "paid"})
//	replicatest.RequireRow(kit, OrderCopy{ID: 7, Status: "paid"})
//	kit.Delete("order", 7)
//	replicatest.RequireNoRow(kit, OrderCopy{ID: 7})
//	kit.RequireNothingLeft()
//
// It needs no test library.
//
// Neighbours: package replica, which applies the messages; package outbox/outboxtest is the same
// for masters.
package replicatest

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/replica"
)

// Kit delivers messages to a replica as the broker would, and looks at what became of them. It is
// the master of the keys that it names: it gives them revisions. It is for one goroutine.
type Kit struct {
	// Replica is the one under test.
	Replica *replica.Replica

	t       testing.TB
	db      *bun.DB
	tables  *applied.Tables
	deliver message.NoPublishHandlerFunc
	keys    map[db.Key]int64 // the newest revision of each
	clock   time.Time        // the master's
	done    map[db.Key]bool  // dead letters and waiting messages that were required
}

// New makes a replica on a service's database, with its tables, and registers what is under test:
// register calls replica.Register, Handle and the like. config is that of the service.
func New(
	t testing.TB, service *bun.DB, config replica.Config, register func(*replica.Replica) error,
) *Kit {
	t.Helper()
	k := &Kit{
		t: t, db: service, keys: map[db.Key]int64{}, done: map[db.Key]bool{},
		clock: time.Now().UTC().Truncate(time.Microsecond),
	}
	d, err := db.New(service, db.Names{Schema: config.Schema, Prefix: config.TablePrefix})
	if err != nil {
		t.Fatalf("replicatest: %v", err)
	}
	k.tables = applied.New(d)
	if k.Replica, err = replica.New(service, config); err != nil {
		t.Fatalf("replicatest: %v", err)
	}
	if err := k.Replica.Migrate(t.Context()); err != nil {
		t.Fatalf("replicatest: %v", err)
	}
	if err := register(k.Replica); err != nil {
		t.Fatalf("replicatest: register: %v", err)
	}
	k.deliver = k.Replica.Handler()
	return k
}

// Save delivers a SAVE under the next revision of the key. data is what the master sends: a struct
// or map that becomes a JSON object with the names of its columns. A key is given as the primary
// key: a number, a string, anything with a text form such as a UUID, or a []any for a composite
// key.
func (k *Kit) Save(model string, key, data any) {
	k.t.Helper()
	k.send(envelope.Save, model, key, k.json(data))
}

// Delete delivers a DELETE under the next revision of the key.
func (k *Kit) Delete(model string, key any) {
	k.t.Helper()
	k.send(envelope.Delete, model, key, envelope.DeleteData(k.json(key)))
}

// Sync delivers the state once more that the key has, as a repair does: the revision stays.
func (k *Kit) Sync(model string, key, data any) {
	k.t.Helper()
	k.send(envelope.Sync, model, key, k.json(data))
}

// Deliver delivers a message as it is. It fails the test where the replica would have the broker
// deliver it again; a message that waits, or is a dead letter, was delivered.
func (k *Kit) Deliver(m *envelope.Message) {
	k.t.Helper()
	body, err := m.Encode()
	if err != nil {
		k.t.Fatalf("replicatest: %v", err)
	}
	delivery := message.NewMessage("", body)
	delivery.Metadata = m.Metadata()
	delivery.SetContext(k.context())
	if err := k.deliver(delivery); err != nil {
		k.t.Fatalf("replicatest: %s of %s %s was not taken: %v", m.Signal, m.Model, m.PK, err)
	}
}

// RequireWaiting fails the test unless a message of the key waits for another try, and returns why,
// of the newest.
func (k *Kit) RequireWaiting(model string, key any) (reason string) {
	k.t.Helper()
	at := k.keyOf(model, key)
	reasons, err := k.tables.WaitingErrors(k.context(), at)
	if err != nil {
		k.t.Fatalf("replicatest: %v", err)
	}
	if len(reasons) == 0 {
		k.t.Fatalf("replicatest: want a message of %s %s that waits, there is none", model, at.Key)
	}
	k.done[at] = true
	return reasons[len(reasons)-1]
}

// RequireDeadLetter fails the test unless a message of the key is a dead letter, and returns why,
// of the newest.
func (k *Kit) RequireDeadLetter(model string, key any) (reason string) {
	k.t.Helper()
	at := k.keyOf(model, key)
	letters := k.letters(db.DeadLetterFilter{Model: model, Key: at.Key})
	if len(letters) == 0 {
		k.t.Fatalf("replicatest: want a dead letter of %s %s, there is none", model, at.Key)
	}
	k.done[at] = true
	return letters[len(letters)-1].Error
}

// RequireNothingLeft fails the test if a message waits or is a dead letter whose key no other call
// has required.
func (k *Kit) RequireNothingLeft() {
	k.t.Helper()
	var left []string
	for _, letter := range k.letters(db.DeadLetterFilter{}) {
		if !k.done[db.Key{Model: letter.Model, Key: letter.Key}] {
			left = append(left, "  a dead letter of "+letter.Model+" "+letter.Key+": "+letter.Error)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(k.keys), func(a, b db.Key) int {
		return strings.Compare(a.Model+"\x00"+a.Key, b.Model+"\x00"+b.Key)
	}) {
		reasons, err := k.tables.WaitingErrors(k.context(), at)
		if err != nil {
			k.t.Fatalf("replicatest: %v", err)
		}
		if len(reasons) > 0 && !k.done[at] {
			left = append(left, "  "+at.Model+" "+at.Key+" waits: "+reasons[len(reasons)-1])
		}
	}
	if len(left) > 0 {
		k.t.Fatalf("replicatest: want nothing that waits and no dead letter, there is:\n%s",
			strings.Join(left, "\n"))
	}
}

// RequireRow fails the test unless the row with want's primary key is there and equal to want.
func RequireRow[T any](k *Kit, want T) {
	k.t.Helper()
	got, there := row(k, want)
	switch {
	case !there:
		k.t.Fatalf("replicatest: want the row %+v, there is none of its key", want)
	case !reflect.DeepEqual(got, want):
		k.t.Fatalf("replicatest: want the row %+v, it is %+v", want, got)
	}
}

// RequireNoRow fails the test if there is a row with key's primary key.
func RequireNoRow[T any](k *Kit, key T) {
	k.t.Helper()
	if got, there := row(k, key); there {
		k.t.Fatalf("replicatest: want no row of this key, there is %+v", got)
	}
}

func row[T any](k *Kit, of T) (row T, there bool) {
	k.t.Helper()
	row = of
	var rows []T
	if err := k.db.NewSelect().Model(&rows).Where("?",
		k.sameKey(&row)).Scan(k.context()); err != nil {
		k.t.Fatalf("replicatest: %v", err)
	}
	if len(rows) == 0 {
		return row, false
	}
	return rows[0], true
}

// sameKey is the condition that finds the row with the model's primary key.
func (k *Kit) sameKey(model any) schema.QueryWithArgs {
	k.t.Helper()
	value := reflect.ValueOf(model).Elem()
	table := k.db.Table(value.Type())
	if len(table.PKs) == 0 {
		k.t.Fatalf("replicatest: %s has no primary key: mark one with bun:\",pk\"", table.TypeName)
	}
	var conditions []string
	var args []any
	for _, field := range table.PKs {
		conditions = append(conditions, "? = ?")
		args = append(args, field.SQLName, field.Value(value).Interface())
	}
	return bun.SafeQuery(strings.Join(conditions, " AND "), args...)
}

func (k *Kit) send(signal envelope.Signal, model string, key any, data json.RawMessage) {
	k.t.Helper()
	at := k.keyOf(model, key)
	before, known := k.keys[at]
	m := &envelope.Message{Signal: signal, Model: model, PK: k.json(key), Key: at.Key}
	after := envelope.NothingBefore
	switch {
	case !known:
	case signal == envelope.Sync:
		m.Revision = before
	default:
		m.Revision, after = before+1, before
	}
	if signal != envelope.Sync {
		m.After = &after
	}
	k.keys[at] = m.Revision
	k.clock = k.clock.Add(time.Millisecond)
	m.Updated = k.clock
	m.Data = envelope.Stamp(data, m.Revision, m.Updated)
	k.Deliver(m)
}

func (k *Kit) letters(f db.DeadLetterFilter) []applied.StoredDeadLetter {
	k.t.Helper()
	letters, err := k.tables.DeadLetters(k.context(), f, 0)
	if err != nil {
		k.t.Fatalf("replicatest: %v", err)
	}
	return letters
}

func (k *Kit) keyOf(model string, key any) db.Key {
	k.t.Helper()
	text, err := envelope.KeyOf(k.json(key))
	if err != nil {
		k.t.Fatalf("replicatest: %v is no key: %v", key, err)
	}
	return db.Key{Model: model, Key: text}
}

func (k *Kit) json(value any) json.RawMessage {
	k.t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		k.t.Fatalf("replicatest: %v", err)
	}
	return text
}

func (k *Kit) context() context.Context { return context.WithoutCancel(k.t.Context()) }
