package envelope

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goldenMessage is a message of a running django-cqrs, byte for byte as RabbitMQ had it.
type goldenMessage struct {
	Name       string `json:"name"`
	RoutingKey string `json:"routing_key"`
	Body       string `json:"body"`
}

func golden(t testing.TB) []goldenMessage {
	file, err := os.Open("testdata/golden.jsonl")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	var all []goldenMessage
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var g goldenMessage
		require.NoError(t, json.Unmarshal(lines.Bytes(), &g))
		all = append(all, g)
	}
	require.NoError(t, lines.Err())
	require.Len(t, all, 18)
	return all
}

func goldenNamed(t testing.TB, name string) *Message {
	for _, g := range golden(t) {
		if g.Name == name {
			m, err := Decode([]byte(g.Body), nil)
			require.NoError(t, err)
			return m
		}
	}
	t.Fatalf("no golden message %s", name)
	return nil
}

func TestGoldenMessagesArePassedOnByteForByte(t *testing.T) {
	for _, g := range golden(t) {
		t.Run(g.Name, func(t *testing.T) {
			m, err := Decode([]byte(g.Body), nil)
			require.NoError(t, err)
			body, err := m.Encode()
			require.NoError(t, err)
			require.Equal(t, g.Body, string(body))
			requireRoundTrip(t, m)
		})
	}
}

func TestGoldenMessagesAreReadFieldByField(t *testing.T) {
	at := func(s string) time.Time {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			panic(err)
		}
		return t.UTC()
	}
	tests := map[string]struct {
		signal   Signal
		model    string
		pk, key  string
		revision int64
		updated  time.Time
		expires  time.Time
		previous string
	}{
		"save_create_nulls": {Save, "author", `2`, "2", 0, at("2026-11-22T22:16:33.870115Z"), at("2026-11-23T22:16:33Z"),
			`{"cqrs_revision":null,"active":null,"name":null}`},
		"sync_broadcast": {Sync, "author", `1`, "1", 4, at("2026-11-22T22:16:36.743Z"), at("2026-11-23T22:16:39Z"), ""},
		"sync_direct":    {Sync, "author", `1`, "1", 4, at("2026-11-22T22:16:36.743Z"), at("2026-11-23T22:16:39Z"), ""},
		"save_uuid_pk_fk_decimal": {Save, "order", `"11111111-2222-3333-4444-555555555555"`,
			"11111111-2222-3333-4444-555555555555", 0, at("2026-11-22T22:16:41.429304Z"), at("2026-11-23T22:16:41Z"), ""},
		"save_chosen_fields_string_pk": {Save, "note", `"n1"`, "n1", 0, at("2026-11-22T22:16:44.322191Z"),
			at("2026-11-23T22:16:44Z"), `{"text":null}`},
		"delete_int_pk": {Delete, "account", `1`, "1", 1, at("2026-11-22T22:16:45.407603Z"), at("2026-11-23T22:16:45Z"), ""},
		"delete_string_pk": {Delete, "note", `"n1"`, "n1", 2, at("2026-11-22T22:16:46.540647Z"),
			at("2026-11-23T22:16:46Z"), ""},
		"save_three_saves_one_txn": {Save, "account", `101`, "101", 3, at("2026-11-22T22:18:25.760678Z"),
			at("2026-11-23T22:18:25Z"), ""},
		"save_no_expiry": {Save, "note", `"meta-ttl_none"`, "meta-ttl_none", 0, at("2026-11-22T22:30:25.841102Z"),
			time.Time{}, `{"text":null}`},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			m := goldenNamed(t, name)
			require.Equal(t, want.signal, m.Signal)
			require.Equal(t, want.model, m.Model)
			require.Equal(t, want.pk, string(m.PK))
			require.Equal(t, want.key, m.Key)
			require.Equal(t, want.revision, m.Revision)
			require.Equal(t, want.updated, m.Updated)
			require.Equal(t, want.expires, m.Expires)
			require.Equal(t, want.previous, string(m.Previous))
			require.Nil(t, m.Meta)
			require.Empty(t, m.CorrelationID)
			require.Zero(t, m.Retries)
			require.Nil(t, m.NonFinite)
		})
	}
}

func TestGoldenValuesStayExact(t *testing.T) {
	fields, err := goldenNamed(t, "save_create_all_types").Fields()
	require.NoError(t, err)
	require.Equal(t, "9007199254740993", string(fields["big"]), "one more than a float64 can tell apart")
	require.Equal(t, "12.34", string(fields["rating"]))
	require.Equal(t, "0.1", string(fields["score"]))
	require.Equal(t, `"2026-01-02 03:04:05.678901+00:00"`, string(fields["seen_at"]))
	require.Equal(t, "Жюль Verne / \"né\" 😀", unquote(fields["name"]))
	require.Equal(t, "line1\nline2\ttab <b>&", unquote(fields["bio"]))
	require.JSONEq(t, `{"k":[1,null,{"x":1.5}],"ü":true}`, string(fields["extra"]))
	require.NotContains(t, fields, "cqrs_revision")
	require.NotContains(t, fields, "cqrs_updated")

	fields, err = goldenNamed(t, "sync_broadcast").Fields()
	require.NoError(t, err)
	require.Equal(t, "1e+22", string(fields["score"]))

	fields, err = goldenNamed(t, "save_serializer").Fields()
	require.NoError(t, err)
	require.Equal(t, `"9.90"`, string(fields["price"]), "a decimal keeps its zero")
}

func TestGoldenNaNIsNullInDataAndKeptBeside(t *testing.T) {
	m := goldenNamed(t, "save_nan")
	require.True(t, json.Valid(m.Data))
	require.Contains(t, string(m.Data), `"f":null`)
	require.Equal(t, NonFinite{"f": json.RawMessage("NaN")}, m.NonFinite)
	body, err := m.Encode()
	require.NoError(t, err)
	require.Contains(t, string(body), `"f":NaN,"dec":null`)
}

func TestGoldenCorrelationAndMetaAreRead(t *testing.T) {
	m := goldenNamed(t, "save_correlation_meta")
	require.Equal(t, "req-42", m.CorrelationID)
	require.Equal(t, `{"source":"interop","signal":"SAVE","model":"Note"}`, string(m.Meta))
}

func TestGoldenDeadLettersWithoutAKeyCanBeReadButHaveNone(t *testing.T) {
	for name, retries := range map[string]int{"dead_letter": 2, "requeue": 1} {
		m := goldenNamed(t, name)
		require.Equal(t, "null", string(m.PK))
		require.Empty(t, m.Key)
		require.Equal(t, retries, m.Retries)
		require.NotContains(t, m.Metadata(), "cqrs_key")
	}
}
