package manifest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

// captured is a database whose tables have triggers.
type captured struct {
	*testing.T
	db  *bun.DB
	m   *manifest.Manifest
	box *outbox.Box
}

// capturedOn makes tables, and puts the triggers of a manifest on them.
func capturedOn(t *testing.T, tables, text string) captured {
	t.Helper()
	c := uncapturedOn(t, tables, text)
	c.install()
	return c
}

func uncapturedOn(t *testing.T, tables, text string) captured {
	t.Helper()
	return uncapturedAt(t, dbtest.PostgresURL(t), tables, text)
}

func uncapturedAt(t *testing.T, url, tables, text string) captured {
	t.Helper()
	conn := dbtest.Open(t, url)
	db{conn.DB}.exec(t, tables)
	m, err := manifest.Parse([]byte(text))
	require.NoError(t, err)
	box, err := m.Box(t.Context(), conn, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	return captured{t, conn, m, box}
}

func (c captured) install() {
	c.Helper()
	triggers := c.triggers()
	require.NoError(c, triggers.Install(c.Context()))
	found, err := triggers.Check(c.Context())
	require.NoError(c, err)
	require.Empty(c, found)
}

func (c captured) triggers() *manifest.Capture {
	c.Helper()
	triggers, err := c.m.Capture(c.Context(), c.db, outbox.Config{})
	require.NoError(c, err)
	return triggers
}

// run runs statements as another program would, in one transaction.
func (c captured) run(statements ...string) {
	c.Helper()
	require.NoError(c, c.try(statements...))
}

func (c captured) try(statements ...string) error {
	tx, err := c.db.DB.BeginTx(c.Context(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after a commit
	for _, statement := range statements {
		if _, err := tx.ExecContext(c.Context(), statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return tx.Commit()
}

// sent is a message of the outbox.
type sent struct {
	Model, Key, Signal, Data string
	Revision                 int64
	After                    *int64
	Previous                 *string
	Meta, Headers            *string
	CorrelationID            *string
	PK                       string
}

func (c captured) all() []sent {
	c.Helper()
	var rows []sent
	require.NoError(c, c.db.NewRaw(`SELECT model, key, signal, data::text AS data, revision, after, previous::text, meta::text, headers::text,
		correlation_id, pk::text FROM outbox_messages ORDER BY model, key, revision`).Scan(c.Context(), &rows))
	var left int
	require.NoError(c, c.db.NewRaw("SELECT count(*) FROM outbox_marks").Scan(c.Context(), &left))
	require.Zero(c, left, "marks that nobody flushed")
	return rows
}

// take is what the outbox holds, as "model key revision signal", and empties it.
func (c captured) take() []string {
	c.Helper()
	var lines []string
	for _, m := range c.all() {
		lines = append(lines, fmt.Sprintf("%s %s %d %s", m.Model, m.Key, m.Revision, m.Signal))
	}
	db{c.db.DB}.exec(c.T, "DELETE FROM outbox_messages")
	return lines
}

const things = `CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN price AS numeric(20,6);
	CREATE TABLE things (id bigint PRIMARY KEY, small smallint, name text NOT NULL, cost price, paid boolean, ratio double precision,
		single real, at timestamptz, local timestamp, day date, clock time, span interval, doc jsonb, raw json, bin bytea, ref uuid,
		tags text[], numbers int[], floats float8[], flags boolean[], times timestamptz[], docs jsonb[], m mood, padded char(8),
		net inet, big numeric)`

// The same rows, written through bun and by plain SQL, give the same outbox.
func TestTriggersSendWhatBunSends(t *testing.T) {
	c := capturedOn(t, things, "models: {thing: {table: things, map: {name: title}}}")
	values := []string{
		`(1, 2, 'O''Brien', 12345678901234.500001, TRUE, 0.1, 1.5, '2026-11-24 12:00:00.123456+02', '2026-11-24 12:00:00.5', '2026-11-24',
			'12:30:00.25', '1 day 02:00:00', '{"a": [1, null, "ä"], "b": {"c": 1.50}}', '{"z":  1, "a":2}', '\x00ff10', '5F0C6F5E-0000-4000-8000-0123456789AB',
			'{x,"y z",NULL}', '{1,2,NULL}', '{1.5,-2e30}', '{t,f}', '{"2026-01-01 00:00:00+00"}', ARRAY['{"q": 1}']::jsonb[], 'good', 'ab',
			'10.0.0.1/8', '1e-7')`,
		`(2, NULL, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`,
		`(3, -5, E'tab\t "quoted" \\ back / slash \u2028 \u0001 \U0001F600 <&>', 0, FALSE, 'NaN', '-Infinity', '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999',
			'0001-01-01', '00:00:00', '-3 months', 'null', '"text"', '', NULL, '{}', '[0:1]={7,8}', '{NaN,Infinity,1}', '{}', '{}', '{}', 'bad', '        ',
			'::1', 'NaN')`,
		`(4, 0, repeat('x', 500), 1, NULL, 1e300, 1e-30, '2026-01-01 00:00:00+00', NULL, NULL, NULL, NULL, '[]', NULL, decode(repeat('ab', 100), 'hex'),
			NULL, '{{a,b},{c,d}}', '{{1,2},{3,4}}', '{}', NULL, NULL, NULL, NULL, NULL, NULL, 12345678901234567890123456789.5)`,
	}
	c.run("INSERT INTO things VALUES " + strings.Join(values, ", "))
	triggered := c.all()
	require.Len(t, triggered, len(values))

	b := uncapturedOn(t, things, "models: {thing: {table: things, map: {name: title}}}")
	db{b.db.DB}.exec(t, "INSERT INTO things VALUES "+strings.Join(values, ", "))
	_, err := b.box.Sync(t.Context(), "thing", []json.RawMessage{[]byte("1"), []byte("2"), []byte("3"), []byte("4")}, outbox.SyncOptions{})
	require.NoError(t, err)
	db{b.db.DB}.exec(t, "CREATE TABLE outbox_marks (id int)")
	for i, want := range b.all() {
		got := triggered[i]
		require.JSONEq(t, want.Data, got.Data, "row %s", want.Key)
		require.Equal(t, canonical(t, want.Data), canonical(t, got.Data), "row %s: numbers, digit by digit", want.Key)
		require.Equal(t, want.Key, got.Key)
		require.JSONEq(t, want.PK, got.PK)
		require.Equal(t, "SAVE", got.Signal)
	}
}

// canonical is an object with sorted members, no spaces, and integers and decimals as they are.
func canonical(t *testing.T, text string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v map[string]any
	require.NoError(t, d.Decode(&v))
	for _, float := range []string{"ratio", "single", "floats"} {
		delete(v, float) // 1e+300 and 1e300 are one number
	}
	out, err := json.Marshal(v)
	require.NoError(t, err)
	return string(out)
}
