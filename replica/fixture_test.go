package replica_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/replica"
)

const queue = "webhooks"

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Note is the smallest model that can be mirrored.
type Note struct {
	ID   int64 `bun:",pk"`
	Text string
}

// fixture is a replica of queue webhooks on an empty database with the library's tables.
type fixture struct {
	*replica.Replica
	t  *testing.T
	db *bun.DB
}

func newFixture(t *testing.T, db *bun.DB) *fixture {
	t.Helper()
	return newFixtureWith(t, db, replica.Config{})
}

func newFixtureWith(t *testing.T, db *bun.DB, config replica.Config) *fixture {
	t.Helper()
	config.Queue = queue
	config.WaitForMissing = cmp.Or(config.WaitForMissing, -1)
	config.Retry = replica.RetryPolicy{Attempts: 3, Min: time.Microsecond, Max: time.Microsecond}
	config.Logger = slog.New(slog.DiscardHandler)
	rep, err := replica.New(db, config)
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	return &fixture{rep, t, db}
}

// mirror creates the table of T and registers it.
func mirror[T any](f *fixture, model string, options ...replica.Option) {
	f.t.Helper()
	_, err := f.db.NewCreateTable().Model((*T)(nil)).Exec(f.t.Context())
	require.NoError(f.t, err)
	require.NoError(f.t, replica.Register[T](f.Replica, model, options...))
}

// deliver hands messages over as a Router does, and fails the test unless each is to be acknowledged.
func (f *fixture) deliver(messages ...*envelope.Message) {
	f.t.Helper()
	for _, m := range messages {
		require.NoError(f.t, f.Handler()(delivery(f.t, m)))
	}
}

func delivery(t require.TestingT, m *envelope.Message) *message.Message {
	body, err := m.Encode()
	require.NoError(t, err)
	d := message.NewMessage(m.Model+m.Key, body)
	d.Metadata = m.Metadata()
	return d
}

// msg is a message about note id; fields make its data.
func msg(signal envelope.Signal, id, revision int64, fields string) *envelope.Message {
	return of("note", signal, strconv.FormatInt(id, 10), revision, fields)
}

// of is a message of any model. A SAVE's data is pk under id and the fields; the time is noon and revision seconds.
func of(model string, signal envelope.Signal, pk string, revision int64, fields string) *envelope.Message {
	m := &envelope.Message{Signal: signal, Model: model, PK: json.RawMessage(pk)}
	m.Data = envelope.DeleteData(m.PK)
	if fields != "" {
		m.Data = json.RawMessage(`{"id":` + pk + `,` + fields + `}`)
	}
	return at(m, revision, noon.Add(time.Duration(revision)*time.Second))
}

// at stamps a message.
func at(m *envelope.Message, revision int64, updated time.Time) *envelope.Message {
	m.Revision, m.Updated = revision, updated
	m.Data = envelope.Stamp(m.Data, revision, updated)
	return m
}

func save(id, revision int64, text string) *envelope.Message {
	return msg(envelope.Save, id, revision, `"text":`+strconv.Quote(text))
}

func del(id, revision int64) *envelope.Message { return msg(envelope.Delete, id, revision, "") }

// notes is the table of notes as id → text.
func (f *fixture) notes() map[int64]string {
	f.t.Helper()
	return notes(f.t, f.db)
}

func notes(t require.TestingT, db *bun.DB) map[int64]string {
	var rows []Note
	require.NoError(t, db.NewSelect().Model(&rows).Scan(context.Background()))
	texts := make(map[int64]string)
	for _, n := range rows {
		texts[n.ID] = n.Text
	}
	return texts
}

// tablesOf are the library's tables.
func tablesOf(t testing.TB, service *bun.DB) *applied.Tables {
	t.Helper()
	d, err := db.New(service, db.Names{})
	require.NoError(t, err)
	return applied.New(d)
}

// ledger is the ledger row of a note.
func (f *fixture) ledger(id int64) applied.Applied {
	f.t.Helper()
	key := db.Key{Model: "note", Key: strconv.FormatInt(id, 10)}
	row := applied.Applied{Key: key, Revision: applied.NeverApplied}
	s := tablesOf(f.t, f.db)
	rollback := errors.New("rollback")
	err := f.db.RunInTx(f.t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		rows, err := s.LockApplied(ctx, tx, []db.Key{key})
		require.NoError(f.t, err)
		row = rows[key]
		return rollback
	})
	require.ErrorIs(f.t, err, rollback)
	return row
}

// deadLetter is a row of replica_dead_letters.
type deadLetter struct {
	Model, Key, Body, Error string
	Revision                *int64
}

func (f *fixture) deadLetters() []deadLetter {
	f.t.Helper()
	var rows []deadLetter
	require.NoError(f.t, f.db.NewRaw(
		"SELECT model, ?, revision, body, error FROM replica_dead_letters ORDER BY id", bun.Ident("key")).Scan(f.t.Context(), &rows))
	return rows
}

// requireDeadLetter expects one dead letter about the message and nothing applied.
func (f *fixture) requireDeadLetter(m *envelope.Message, reason string) {
	f.t.Helper()
	letters := f.deadLetters()
	require.Len(f.t, letters, 1)
	body, err := m.Encode()
	require.NoError(f.t, err)
	require.Equal(f.t, deadLetter{m.Model, m.Key, string(body), letters[0].Error, &m.Revision},
		letters[0], "the message is kept whole")
	require.Contains(f.t, letters[0].Error, reason)
	require.EqualValues(f.t, 1, f.Stats().DeadLettered)
	require.Zero(f.t, f.Stats().Applied)
}

// waitingRow is a row of replica_waiting.
type waitingRow struct {
	Model, Key, Error string
	Revision          int64
	Attempts          int
	Parent            string
}

func (f *fixture) waiting() []waitingRow {
	f.t.Helper()
	var rows []waitingRow
	require.NoError(f.t, f.db.NewRaw(
		"SELECT model, ?, error, revision, attempts, coalesce(parent_key, '') AS parent FROM replica_waiting ORDER BY since",
		bun.Ident("key")).Scan(f.t.Context(), &rows))
	return rows
}

// maintain tries what waits until the condition holds.
func (f *fixture) maintain(until func() bool) {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Maintain(ctx) }()
	require.Eventually(f.t, until, time.Minute, time.Millisecond)
	stop()
	require.NoError(f.t, await(f.t, done))
}
