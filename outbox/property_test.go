package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// Flag has what the other models have not: columns that are nullzero with a default, pointers, and
// a key that the database finds by other spellings.
type Flag struct {
	bun.BaseModel `bun:"table:flags"`
	outbox.Tracked

	Code  string `bun:",pk"`
	Rank  int64  `bun:",nullzero,default:7"`
	Label string `bun:",nullzero"`
	Note  *string
	Count *int64
}

// The property: whatever statements a transaction is made of, the outbox holds afterwards what the
// tables say. The seed of a failure is printed; CQRSYNC_TEST_SEED repeats it,
// CQRSYNC_TEST_TRANSACTIONS runs that many instead of three seconds.
func TestTheOutboxSaysWhatTheTablesSay(t *testing.T) {
	each(t, func(f fixture) {
		seed := uint64(time.Now().UnixNano())
		if text := os.Getenv("CQRSYNC_TEST_SEED"); text != "" {
			var err error
			seed, err = strconv.ParseUint(text, 10, 64)
			require.NoError(f, err)
		}
		count, _ := strconv.Atoi(os.Getenv("CQRSYNC_TEST_TRANSACTIONS"))
		p := newProperty(f, seed)
		deadline := time.Now().Add(3 * time.Second)
		for i := 0; i < count || count == 0 && time.Now().Before(deadline); i++ {
			p.transaction()
		}
		f.Logf("seed %d: %d committed, %d with messages, %d messages, %d refused, %d failed",
			seed, p.committed, p.sending, p.messages, p.refused, p.failed)
		require.Greater(f, p.sending*3, p.refused+p.failed, "too few transactions were of use")
	})
}

// property makes transactions of one seed and judges them.
type property struct {
	fixture
	*rand.Rand

	seed   uint64
	tables []propertyTable
	kept   map[string][]any // structs that were given to statements, to be given again
	last   map[string]int64 // revisions
	steps  []string         // of the transaction

	committed, sending, messages, refused, failed int
}

// propertyTable is what the generator and the oracle must know of a registered model.
type propertyTable struct {
	model, table string
	keys         []string
	columns      []string // without the keys
	live         string   // a condition for rows that replicas have
	row          func(p *property) any
}

func newProperty(f fixture, seed uint64) *property {
	f.run(map[dialect.Name]string{
		dialect.PG:     "CREATE TABLE flags (code char(6) PRIMARY KEY, rank bigint DEFAULT 7, label varchar(9) DEFAULT '', note text, count bigint)",
		dialect.MySQL:  "CREATE TABLE flags (code varchar(6) COLLATE utf8mb4_general_ci PRIMARY KEY, `rank` bigint DEFAULT 7, label varchar(9) DEFAULT '', note text, count bigint)",
		dialect.SQLite: "CREATE TABLE flags (code text COLLATE NOCASE PRIMARY KEY, rank bigint DEFAULT 7, label text DEFAULT '', note text, count bigint)",
	})
	require.NoError(f, outbox.Register[Flag](f.box, "flag"))
	p := &property{fixture: f, Rand: rand.New(rand.NewPCG(seed, 1)), seed: seed, kept: map[string][]any{}, last: map[string]int64{}}
	p.tables = []propertyTable{
		{"order", "orders", []string{"id"}, []string{"number", "status"}, "1 = 1", func(p *property) any {
			return &Order{ID: p.id(), Number: p.word(12), Status: p.word(3)}
		}},
		{"seat", "seats", []string{"row", "place"}, []string{"guest"}, "1 = 1", func(p *property) any {
			return &Seat{Row: p.Int64N(3), Place: []string{"", "a", `b"`, "c,('"}[p.IntN(4)], Guest: p.word(4)}
		}},
		{"flag", "flags", []string{"code"}, []string{"rank", "label", "note", "count"}, "1 = 1", func(p *property) any {
			row := &Flag{Code: p.spelled(), Rank: p.Int64N(3), Label: p.word(3)}
			if p.one(2) {
				row.Note = new(p.word(3))
			}
			if p.one(2) {
				row.Count = new(p.Int64N(2))
			}
			return row
		}},
		{"file", "files", []string{"id"}, []string{"name"}, "deleted_at IS NULL", func(p *property) any {
			row := &File{ID: 1 + p.Int64N(6), Name: p.word(4)}
			if p.one(6) {
				row.DeletedAt = time.Now()
			}
			return row
		}},
	}
	return p
}

func (p *property) one(in int) bool { return p.IntN(in) == 0 }

func (p *property) word(of int) string {
	return []string{"", "a", "b", "it's", `q"\`, "c,(", "é", "x y", "$1", "?", "-- z", "/* w"}[p.IntN(of)]
}

func (p *property) id() int64 {
	if p.one(2) {
		return 0
	}
	return 1 + p.Int64N(12)
}

func (p *property) spelled() string {
	code := []string{"ab", "cd", "ef", "gh"}[p.IntN(4)]
	if p.db.Dialect().Name() == dialect.PG {
		return code + strings.Repeat(" ", p.IntN(3))
	}
	if p.one(2) {
		return strings.ToUpper(code)
	}
	return code
}

// transaction runs a random transaction and judges what the outbox holds then.
func (p *property) transaction() {
	p.steps = nil
	before := p.snapshot()
	err := p.inTx(func(ctx context.Context, tx bun.Tx) error {
		if err := p.statements(ctx, tx, 1+p.IntN(5), 0); err != nil {
			return err
		}
		if p.one(12) {
			return errGivenUp
		}
		return nil
	})
	after, messages := p.snapshot(), p.take()
	said := fmt.Sprintf("CQRSYNC_TEST_SEED=%d, the transaction was:\n%s\n→ %v", p.seed, strings.Join(p.steps, "\n"), err)
	if err != nil {
		p.count(err)
		require.Equal(p, before, after, "%s", said)
		require.Empty(p, messages, "%s", said)
		return
	}
	p.committed++
	p.judge(before, after, messages, said)
}

var errGivenUp = errors.New("given up")

func (p *property) count(err error) {
	var refused *outbox.RefusedError
	if errors.As(err, &refused) {
		p.refused++
	} else {
		p.failed++
	}
}

// judge is the oracle.
func (p *property) judge(before, after map[string]string, messages []message, said string) {
	sent := map[string]message{}
	for _, m := range messages {
		id := m.Model + " " + m.Key
		require.NotContains(p, sent, id, "two messages: %s", said)
		sent[id] = m
		row, exists := after[id]
		if m.Signal == "SAVE" {
			require.True(p, exists, "SAVE of %s, which is not there: %s", id, said)
			require.Equal(p, row, p.dataOf(m), "%s: %s", id, said)
		} else {
			require.Equal(p, "DELETE", m.Signal)
			require.False(p, exists, "DELETE of %s, which is there: %s", id, said)
		}
		if last, known := p.last[id]; known {
			require.Equal(p, last+1, m.Revision, "revision of %s: %s", id, said)
		} else {
			require.LessOrEqual(p, m.Revision, int64(1), "first revision of %s: %s", id, said)
		}
		p.last[id] = m.Revision
	}
	for id, row := range before {
		if after[id] != row {
			require.Contains(p, sent, id, "%s changed: %s", id, said)
		}
	}
	for id := range after {
		if _, was := before[id]; !was {
			require.Contains(p, sent, id, "%s is new: %s", id, said)
		}
	}
	p.messages += len(messages)
	if len(messages) > 0 {
		p.sending++
	}
}

// snapshot is every row that replicas have, by model and key, as the database says.
func (p *property) snapshot() map[string]string {
	all := map[string]string{}
	lines := map[string][]string{}
	for _, values := range p.read("SELECT order_id, id, sku, quantity FROM " + string(p.db.QueryGen().AppendIdent(nil, "lines")) + " ORDER BY id") {
		lines[values[0]] = append(lines[values[0]], strings.Join(values, "|"))
	}
	for _, t := range p.tables {
		columns := append(append([]string{}, t.keys...), t.columns...)
		for i, c := range columns {
			columns[i] = string(p.db.QueryGen().AppendIdent(nil, c))
		}
		for _, values := range p.read("SELECT " + strings.Join(columns, ", ") + " FROM " + t.table + " WHERE " + t.live) {
			key := values[0]
			if len(t.keys) == 2 {
				row, err := strconv.ParseInt(values[0], 10, 64)
				require.NoError(p, err)
				text, err := json.Marshal([]any{row, values[1]})
				require.NoError(p, err)
				key = string(text)
			}
			text := strings.Join(values, "|")
			if t.model == "order" {
				text += "[" + strings.Join(lines[key], ";") + "]"
			}
			all[t.model+" "+key] = text
		}
	}
	return all
}

func (p *property) read(query string) [][]string {
	rows, err := p.db.DB.QueryContext(p.Context(), query)
	require.NoError(p, err)
	defer func() { require.NoError(p, rows.Close()) }()
	columns, err := rows.Columns()
	require.NoError(p, err)
	var all [][]string
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		require.NoError(p, rows.Scan(into...))
		texts := make([]string, len(columns))
		for i, v := range values {
			if b, isBytes := v.([]byte); isBytes {
				v = string(b)
			}
			texts[i] = fmt.Sprint(v)
		}
		all = append(all, texts)
	}
	require.NoError(p, rows.Err())
	return all
}

// dataOf is a message's data as snapshot has a row.
func (p *property) dataOf(m message) string {
	decoder := json.NewDecoder(strings.NewReader(string(m.Data)))
	decoder.UseNumber()
	var data map[string]any
	require.NoError(p, decoder.Decode(&data))
	text := func(data map[string]any, columns ...string) string {
		values := make([]string, len(columns))
		for i, c := range columns {
			value, found := data[c]
			require.True(p, found, "%s is missing in %s", c, m.Data)
			values[i] = fmt.Sprint(value)
		}
		return strings.Join(values, "|")
	}
	for _, t := range p.tables {
		if t.model != m.Model {
			continue
		}
		row := text(data, append(append([]string{}, t.keys...), t.columns...)...)
		if m.Model == "order" {
			var lines []string
			list, _ := data["lines"].([]any)
			for _, line := range list {
				lines = append(lines, text(line.(map[string]any), "order_id", "id", "sku", "quantity"))
			}
			row += "[" + strings.Join(lines, ";") + "]"
		}
		return row
	}
	return "no model " + m.Model
}
