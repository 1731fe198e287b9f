package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
)

// Range is a part of a ledger in the order of the database; an empty end is open. AnyOrder spares
// the database to sort what it found.
type Range struct {
	From, After, To string
	AnyOrder        bool
}

// KeyRevision is a key with its revision.
type KeyRevision struct {
	Key      string
	Revision int64
}

// Live returns up to limit live keys of a model within a range with their revisions and nothing
// else.
func (l *Ledger) Live(
	ctx context.Context, tx bun.IDB, model string, r Range, limit int,
) ([]KeyRevision, error) {
	query, args := l.live(model, r, limit)
	page, err := readLive(ctx, tx, query, args)
	if err != nil {
		return nil, fmt.Errorf("read the live keys of %s: %w", model, err)
	}
	return page, nil
}

func (l *Ledger) live(model string, r Range, limit int) (query string, args []any) {
	condition, args := "model = ? AND NOT deleted", []any{l.table, model}
	for _, end := range []struct{ operator, key string }{{">=", r.From}, {">", r.After},
		{"<=", r.To}} {
		if end.key != "" {
			condition, args = condition+` AND "key" `+end.operator+` ?`, append(args, end.key)
		}
	}
	if !r.AnyOrder {
		condition += ` ORDER BY "key"`
	}
	return l.SQL(`SELECT "key", revision FROM ? WHERE ` + condition + ` LIMIT ?`), append(args, limit)
}

func readLive(ctx context.Context, tx bun.IDB, query string, args []any) ([]KeyRevision, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var page []KeyRevision
	for rows.Next() {
		var k KeyRevision
		if err := rows.Scan(&k.Key, &k.Revision); err != nil {
			return nil, err
		}
		page = append(page, k)
	}
	return page, rows.Err()
}

// Pairs are integer keys with their revisions as a line of a diff writes them, without its outer
// brackets: 1,0],[2,5. Where the texts of both sides are equal, nobody has to parse them.
type Pairs struct {
	Text  string
	Count int
}

// Pairs is Live for a model whose keys are integers.
func (l *Ledger) Pairs(
	ctx context.Context, tx bun.IDB, model string, r Range, limit int,
) (Pairs, error) {
	join := l.dialect.joinPairs()
	if join == "" {
		page, err := l.Live(ctx, tx, model, r, limit)
		return JoinPairs(page), err
	}
	query, args := l.live(model, r, limit)
	var p Pairs
	err := tx.QueryRowContext(ctx, l.SQL("SELECT "+join+", count(*) FROM ("+query+") AS page"),
		args...).Scan(&p.Text, &p.Count)
	if err != nil {
		return p, fmt.Errorf("read the live keys of %s: %w", model, err)
	}
	return p, nil
}

// JoinPairs makes the words of keys that are JSON.
func JoinPairs(page []KeyRevision) Pairs {
	var text []byte
	for i, k := range page {
		if i > 0 {
			text = append(text, "],["...)
		}
		text = append(append(text, k.Key...), ',')
		text = strconv.AppendInt(text, k.Revision, 10)
	}
	return Pairs{string(text), len(page)}
}

// Last is the key of the last pair.
func (p Pairs) Last() string {
	key, _, _ := strings.Cut(p.Text[strings.LastIndexByte(p.Text, '[')+1:], ",")
	return key
}

// SpeaksFor says that the live keys of a model's ledger are the keys of its table, by count and sum
// of hashes that both are read for in one statement, so that writes going on do not matter. Then a
// diff reads the ledger alone. false may also mean that the database has no cheap way to tell.
// table and column are quoted.
func (l *Ledger) SpeaksFor(
	ctx context.Context, tx bun.IDB, model, table, column string,
) (bool, error) {
	digest := l.dialect.digest()
	if digest == "" {
		return false, nil
	}
	of := func(key string) string { return strings.ReplaceAll(digest, "KEY", key) }
	var same bool
	err := tx.QueryRowContext(ctx, l.SQL(`SELECT (SELECT `+of(column)+` FROM ?) =
		(SELECT `+of(`"key"`)+` FROM ? WHERE model = ? AND NOT deleted)`),
		bun.Safe(table), l.table, model).Scan(&same)
	if err != nil {
		return false, fmt.Errorf("compare the ledger of %s with its table: %w", model, err)
	}
	return same, nil
}

// CountLive counts the live keys of a model, up to most.
func (l *Ledger) CountLive(
	ctx context.Context, tx bun.IDB, model string, most int64,
) (n int64, err error) {
	err = tx.QueryRowContext(ctx, l.SQL(`SELECT count(*) FROM
		(SELECT 1 AS one FROM ? WHERE model = ? AND NOT deleted LIMIT ?) AS counted`),
		l.table, model, most).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the live keys of %s: %w", model, err)
	}
	return n, nil
}
