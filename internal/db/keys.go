package db

import (
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
)

// Key names one instance of one model.
type Key struct {
	Model string
	Key   string
}

// CompareKeys is the one order in which keys are locked everywhere. Two transactions that lock the
// same keys in the same order wait for each other; in different orders they deadlock.
func CompareKeys(a, b Key) int {
	if c := strings.Compare(a.Model, b.Model); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}

// MaxKeys bounds a statement's keys, so that none outgrows what the smallest dialect accepts.
const MaxKeys = 2000

// Tuples renders keys as the right side of (model, "key") IN (…).
func Tuples(keys []Key) bun.ListValues {
	rows := make([]bun.TupleValues, len(keys))
	for i, k := range keys {
		rows[i] = bun.Tuple([]string{k.Model, k.Key})
	}
	return AnyOfTuples(rows)
}

// AnyOfTuples renders rows as the right side of (…) IN (…), never as a list of one: for such
// MariaDB looks into no index, and an UPDATE or DELETE locks every row that it reads, so that it
// would wait for everybody else's.
func AnyOfTuples(rows []bun.TupleValues) bun.ListValues {
	if len(rows) == 1 {
		rows = append(rows, rows[0])
	}
	return bun.List(rows)
}

// JoinInts writes numbers with commas between them.
func JoinInts(numbers []int64) string {
	var b []byte
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

// Among returns a condition that a key is one of some. Where these are digits of one length, which
// every collation orders alike, it says between which they lie: without that, PostgreSQL reads the
// whole ledger for a long list.
func Among(keys []string) (condition string, args []any) {
	first, last := slices.Min(keys), slices.Max(keys)
	for _, key := range keys {
		if len(key) != len(first) || strings.Trim(key, "0123456789") != "" {
			return `"key" IN (?)`, []any{bun.List(keys)}
		}
	}
	return `"key" IN (?) AND "key" >= ? AND "key" <= ?`, []any{bun.List(keys), first, last}
}
