package manifest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
)

const cartsYAML = `models: {cart: {table: carts, relations: {
	notes: {table: cart_notes, key: cart_id},
	items: {table: cart_items, key: [cart_id], many: true}}}}`

// cartTables are made on each database.
var cartTables = []string{
	"CREATE TABLE carts (id bigint PRIMARY KEY, name varchar(20))",
	"CREATE TABLE cart_items (id bigint PRIMARY KEY, cart_id bigint, sku varchar(20), qty bigint NOT NULL)",
	"CREATE TABLE cart_notes (id bigint PRIMARY KEY, cart_id bigint UNIQUE, note varchar(40))",
}

// Cart and what is below it are the same tables for a service in Go.
type Cart struct {
	bun.BaseModel `bun:"table:carts"`
	outbox.Tracked

	ID    int64 `bun:",pk"`
	Name  *string
	Items []CartItem `bun:"rel:has-many,join:id=cart_id"`
	Notes *CartNote  `bun:"rel:has-one,join:id=cart_id"`
}

type CartItem struct {
	ID     int64  `bun:",pk"`
	CartID *int64 // may be of no cart
	SKU    *string
	Qty    int64
}

type CartNote struct {
	ID     int64 `bun:",pk"`
	CartID *int64
	Note   *string
}

// related is one set of tables captured twice: by triggers, and by a service in Go on them.
type related struct {
	captured

	goDB  *bun.DB
	goBox *outbox.Box
}

func eachRelated(t *testing.T, text string, test func(r related)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := related{captured: uncapturedWith(t, newURL(t), cartTables, text), goDB: dbtest.Open(t, newURL(t))}
			r.install()
			for _, table := range cartTables {
				db{r.goDB.DB}.exec(t, table)
			}
			var err error
			r.goBox, err = outbox.New(r.goDB, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, outbox.Register[Cart](r.goBox, "cart", outbox.Relations("Items", "Notes"), outbox.Triggers()))
			require.NoError(t, r.goBox.Migrate(t.Context()))
			test(r)
		})
	}
}

func uncapturedWith(t *testing.T, url string, tables []string, text string) captured {
	t.Helper()
	conn := dbtest.Open(t, url)
	for _, table := range tables {
		db{conn.DB}.exec(t, table)
	}
	return uncapturedAt(t, url, "SELECT 1", text)
}

// exec runs a transaction of plain SQL on both.
func (r related) exec(statements ...string) {
	r.Helper()
	r.run(statements...)
	_, err := r.box.Sweep(r.Context())
	require.NoError(r, err)
	require.NoError(r, r.goBox.RunInTx(r.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		for _, s := range statements {
			if _, err := tx.NewRaw(s).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	}))
}

// What is nested is what a service in Go nests, and a write of a nested row sends the entity.
func TestRelationsAreWhatAServiceInGoNests(t *testing.T) {
	eachRelated(t, cartsYAML, func(r related) {
		r.exec("INSERT INTO carts VALUES (1, 'it''s'), (2, NULL)")
		r.exec("INSERT INTO cart_items VALUES (12, 1, 'b', 2), (11, 1, NULL, 0), (13, 2, '', 5), (14, NULL, 'x', 1)")
		r.exec("INSERT INTO cart_notes VALUES (5, 1, NULL)")
		r.exec("UPDATE cart_items SET cart_id = 2 WHERE id = 12", "UPDATE cart_notes SET note = 'say \"hi\"' WHERE id = 5")
		r.exec("DELETE FROM cart_items WHERE cart_id = 2")
		r.exec("DELETE FROM carts WHERE id = 1")
		r.exec("DELETE FROM cart_items", "DELETE FROM cart_notes")
		want := messagesOf(r.T, r.goDB)
		require.Equal(r, want, messagesOf(r.T, r.db))
		require.Contains(r, lines(want), "1 4 DELETE")
		require.Equal(r, `{"id":1,"items":[{"cart_id":1,"id":11,"qty":0,"sku":null},{"cart_id":1,"id":12,"qty":2,"sku":"b"}],`+
			`"name":"it's","notes":null}`, want[2].Data)
	})
}

// Random writes of all tables, by plain SQL, make equal outboxes.
func TestRelationsStayEqualUnderRandomWrites(t *testing.T) {
	eachRelated(t, cartsYAML, func(r related) {
		seed := rand.Uint64()
		r.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 3))
		known := map[string]bool{}
		row := func(table string, id int, values string) []string {
			key := fmt.Sprint(table, id)
			gone := fmt.Sprintf("DELETE FROM %s WHERE id = %d", table, id)
			if known[key] = !known[key]; !known[key] {
				return []string{gone}
			}
			return []string{fmt.Sprintf("INSERT INTO %s VALUES (%d, %s)", table, id, values)}
		}
		for n := range 40 {
			var statements []string
			for range 1 + random.IntN(3) {
				cart := random.IntN(3) + 1
				switch random.IntN(4) {
				case 0:
					statements = append(statements, row("carts", cart, fmt.Sprintf("'name %d'", n))...)
				case 1:
					statements = append(statements, row("cart_items", random.IntN(5), fmt.Sprintf("%d, 'sku', %d", cart, n))...)
				case 2:
					statements = append(statements, row("cart_notes", cart, fmt.Sprintf("%d, 'note %d'", cart, n))...)
				default:
					statements = append(statements, fmt.Sprintf("UPDATE cart_items SET cart_id = %d WHERE qty > %d", cart, random.IntN(n+1)))
				}
			}
			r.exec(statements...)
		}
		require.Equal(r, messagesOf(r.T, r.goDB), messagesOf(r.T, r.db))
	})
}

// The file says which columns are nested, and in which order; a filter stands beside it.
func TestRelationsHaveTheColumnsAndTheOrderOfTheFile(t *testing.T) {
	const text = `models: {cart: {table: carts, filter: "name <> 'x' AND id < 100", relations: {
		items: {table: cart_items, key: cart_id, columns: [sku], order: [qty], many: true},
		notes: {table: cart_notes, key: cart_id, columns: note}}}}`
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedWith(t, newURL(t), cartTables, text)
			c.install()
			c.run("INSERT INTO cart_items VALUES (1, 7, 'c', 3), (2, 7, 'a', 1), (3, 7, 'b', 1)",
				"INSERT INTO cart_notes VALUES (1, 7, 'n'), (2, 8, 'n')", "INSERT INTO carts VALUES (7, 'open'), (8, 'x')")
			_, err := c.box.Sweep(t.Context())
			require.NoError(t, err)
			const want = `{"id":7,"items":[{"sku":"a"},{"sku":"b"},{"sku":"c"}],"name":"open","notes":{"note":"n"}}`
			all := messagesOf(t, c.db)
			require.Len(t, all, 1)
			require.Equal(t, want, all[0].Data)
			_, err = c.box.Sync(t.Context(), "cart", []json.RawMessage{[]byte("7"), []byte("8")}, outbox.SyncOptions{})
			require.NoError(t, err)
			all = messagesOf(t, c.db)
			require.Len(t, all, 2)
			require.Equal(t, want, all[1].Data)
			c.run("UPDATE carts SET name = 'x' WHERE id = 7", "UPDATE cart_items SET qty = 9")
			_, err = c.box.Sweep(t.Context())
			require.NoError(t, err)
			require.Equal(t, "DELETE", messagesOf(t, c.db)[2].Signal)
		})
	}
}

// Every type of a column is nested as it is sent at the top.
func TestNestedRowsHaveTheValuesOfTheirTypes(t *testing.T) {
	const tables = things + `; CREATE TABLE boxes (id bigint PRIMARY KEY); ALTER TABLE things ADD COLUMN box_id bigint`
	const text = `models: {box: {table: boxes, relations: {things: {table: things, key: box_id, many: true}}}}`
	const values = `(1, 2, 'O''Brien', 12345678901234.500001, TRUE, 0.1, 1.5, '2026-11-24 12:00:00.123456+02', '2026-11-24 12:00:00.5',
		'2026-11-24', '12:30:00.25', '1 day 02:00:00', '{"a": [1, null, "ä"]}', '{"z":  1, "a":2}', '\x00ff10',
		'5F0C6F5E-0000-4000-8000-0123456789AB', '{x,"y z",NULL}', '{1,2,NULL}', '{1.5,-2e30}', '{t,f}', NULL, NULL, 'good', 'ab',
		'10.0.0.1/8', '1e-7', 9),
		(2, NULL, '', NULL, NULL, 'NaN', '-Infinity', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{NaN,1}', NULL,
		NULL, NULL, NULL, NULL, NULL, 'NaN', 9)`
	c := capturedOn(t, tables, text)
	c.run("INSERT INTO boxes VALUES (9)", "INSERT INTO things VALUES "+values)
	triggered := c.all()[0].Data
	db{c.db.DB}.exec(t, "DELETE FROM outbox_messages")
	_, err := c.box.Sync(t.Context(), "box", []json.RawMessage{[]byte("9")}, outbox.SyncOptions{})
	require.NoError(t, err)
	require.Equal(t, shelvedNumbers(t, c.all()[0].Data), shelvedNumbers(t, triggered))
	require.Contains(t, triggered, "cqrs_nonfinite")
	require.ErrorContains(t, c.try("UPDATE things SET at = 'infinity' WHERE id = 1"), "column things of table boxes")
}

// shelvedNumbers is an object with its numbers as Go reads them, and NaN and the infinities as texts.
func shelvedNumbers(t *testing.T, text string) map[string]any {
	t.Helper()
	restored, err := envelope.Restored(json.RawMessage(text))
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal(envelope.Quoted(restored), &v))
	return v
}

// A table may be nested in itself, be a model of its own, and stand in two relations.
func TestRelationsOfOneTable(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedWith(t, newURL(t), []string{
				"CREATE TABLE nodes (id bigint PRIMARY KEY, parent_id bigint, other_id bigint)",
			}, `models: {node: {table: nodes, columns: id, relations: {
				below: {table: nodes, key: parent_id, columns: id, many: true},
				others: {table: nodes, key: other_id, many: true}}}}`)
			c.install()
			c.run("INSERT INTO nodes VALUES (1, NULL, NULL)", "INSERT INTO nodes VALUES (2, 1, 1), (3, 1, NULL)")
			_, err := c.box.Sweep(t.Context())
			require.NoError(t, err)
			all := messagesOf(t, c.db)
			require.ElementsMatch(t, []string{"1 0 SAVE", "2 0 SAVE", "3 0 SAVE"}, lines(all))
			require.Contains(t, fmt.Sprint(all), `{"below":[{"id":2},{"id":3}],"id":1,"others":[{"id":2,"other_id":1,"parent_id":1}]}`)
			c.run("DELETE FROM nodes WHERE id = 3")
			_, err = c.box.Sweep(t.Context())
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"1 1 SAVE", "3 1 DELETE"}, lines(messagesOf(t, c.db)[3:]))
		})
	}
}

// A REPLACE takes rows away because of any unique index: the entities that they belonged to change.
func TestReplaceOfANestedRowSendsWhoLostIt(t *testing.T) {
	const text = "models: {cart: {table: carts, relations: {items: {table: cart_items, key: cart_id, many: true}}}}"
	for name, newURL := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "mariadb": dbtest.MariaDBURL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedWith(t, newURL(t), append([]string{}, cartTables...), text)
			db{c.db.DB}.exec(t, "CREATE UNIQUE INDEX skus ON cart_items (sku)")
			c.install()
			sweep := func() []string {
				_, err := c.box.Sweep(t.Context())
				require.NoError(t, err)
				all := lines(messagesOf(t, c.db))
				db{c.db.DB}.exec(t, "DELETE FROM outbox_messages")
				return all
			}
			c.run("INSERT INTO carts VALUES (1, 'a'), (2, 'b'), (3, 'c')", "INSERT INTO cart_items VALUES (1, 1, 'x', 0), (2, 2, 'y', 0)")
			sweep()
			c.run("REPLACE INTO cart_items VALUES (1, 3, 'z', 0)")
			require.ElementsMatch(t, []string{"1 1 SAVE", "3 1 SAVE"}, sweep(), "by its key")
			c.run("REPLACE INTO cart_items VALUES (9, 1, 'y', 0)")
			require.ElementsMatch(t, []string{"1 2 SAVE", "2 1 SAVE"}, sweep(), "by another index")
			c.run("REPLACE INTO cart_items VALUES (9, NULL, 'z', 0)")
			require.ElementsMatch(t, []string{"1 3 SAVE", "3 2 SAVE"}, sweep(), "by both")
		})
	}
}

// A column of another type would name keys that nobody has.
func TestTouchByAColumnOfAnotherTypeIsRefused(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedWith(t, newURL(t), cartTables, "models: {cart: {table: carts}}")
			m, err := manifest.Parse([]byte("models: {cart: {table: carts, touch: {cart_items: sku}}}"))
			require.NoError(t, err)
			_, err = m.Capture(t.Context(), c.db, outbox.Config{})
			require.ErrorContains(t, err, "cannot hold column id of carts")
			_, err = manifest.Parse([]byte("models: {cart: {table: carts, touch: {parts: {via: cart_items}}}}"))
			require.ErrorContains(t, err, "two steps away")
		})
	}
}

var wrongRelations = map[string]string{
	"{items: {table: cart_items, many: true}}":                                   "key: not set, want the columns of table cart_items",
	"{items: {table: cart_items, key: cart_id}}":                                 "say many: true for a list, or make a unique index on (cart_id)",
	"{items: {table: cart_items, key: nothing, many: true}}":                     `table cart_items has no column "nothing"`,
	"{items: {table: cart_items, key: cart_id, columns: [none], many: true}}":    `table cart_items has no column "none"`,
	"{items: {table: cart_items, key: CART_ID, many: true}}":                     `no column "CART_ID"`,
	"{items: {table: cart_items, key: cart_id, columns: SKU, many: true}}":       `no column "SKU"`,
	"{items: {table: cart_items, key: sku, many: true}}":                         "cannot hold column id of carts",
	"{items: {table: cart_items, key: [cart_id, qty], many: true}}":              "2 columns, want the 1",
	"{items: {table: nowhere, key: cart_id, many: true}}":                        "table nowhere does not exist",
	"{name: {table: cart_items, key: cart_id, many: true}}":                      "is sent under the same name",
	"{notes: {table: cart_notes, key: cart_id, order: note}}":                    "there is one row",
	"{'a b': {table: cart_items, key: cart_id, many: true}}":                     "want a name of letters",
	"{items: {table: cart_items, key: cart_id, many: true, order: ['1; DROP']}}": "want a name of letters",
	"{items: {table: cart_items, key: cart_id, many: true, relations: {}}}":      `unknown key "relations"`,
	"{t: {table: cart_items, key: cart_id, many: true}}":                         "but for t",
	"{items: cart_items}": "want the keys table, key",
}

func TestRelationsThatCannotBeReadAreRefused(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedWith(t, newURL(t), cartTables, "models: {cart: {table: carts}}")
			for relations, want := range wrongRelations {
				m, err := manifest.Parse([]byte("models: {cart: {table: carts, relations: " + relations + "}}"))
				if err == nil {
					_, err = m.Box(t.Context(), c.db, outbox.Config{})
					_, err2 := m.Capture(t.Context(), c.db, outbox.Config{})
					require.ErrorContains(t, err2, want, relations)
				}
				require.ErrorContains(t, err, want, relations)
			}
		})
	}
}
