// Package stored reads rows together with what their Go values cannot say: which columns are NULL.
// bun scans NULL into the zero value of a field that is no pointer, so a NULL and a 0 look alike
// afterwards, and on the wire they are not.
package stored

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// Nulls are the names of a row's columns that are NULL. It is nil where nobody has looked, and
// empty where none is. Rows share them: nobody changes one.
type Nulls map[string]bool

var none = Nulls{}

// Rows are the rows of a table. It is a bun.Model: give [Rows.Model] to the query and Rows itself
// to its Scan.
//
// It reads the table's own columns, and no relations.
type Rows struct {
	table *schema.Table
	list  reflect.Value // a slice of the table's type
	nulls []Nulls
	most  int // bytes, 0 for any number
	cut   bool
}

var _ bun.Model = (*Rows)(nil)

// Of are no rows yet.
func Of(table *schema.Table) *Rows {
	return &Rows{table: table, list: reflect.New(reflect.SliceOf(table.Type)).Elem()}
}

// AtMost bounds what is read: no row follows the one with which the values exceed so many bytes.
// 0 is no bound. Whoever sets one asks Cut.
func (r *Rows) AtMost(bytes int) { r.most = bytes }

// Cut says that rows were left unread because of AtMost.
func (r *Rows) Cut() bool { return r.cut }

// Table is theirs.
func (r *Rows) Table() *schema.Table { return r.table }

// Model is what the query is about.
func (r *Rows) Model() any { return r.list.Addr().Interface() }

// Value implements bun.Model.
func (r *Rows) Value() any { return r.Model() }

// Len is how many rows were read.
func (r *Rows) Len() int { return r.list.Len() }

// Row is the n-th one, addressable.
func (r *Rows) Row(n int) reflect.Value { return r.list.Index(n) }

// Nulls are the n-th row's.
func (r *Rows) Nulls(n int) Nulls { return r.nulls[n] }

// ScanRows implements bun.Model.
func (r *Rows) ScanRows(ctx context.Context, rows *sql.Rows) (int, error) {
	names, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	cells := make([]cell, len(names))
	targets := make([]any, len(names))
	for i, name := range names {
		// SQLite leaves quotes on some names. A column without a field is none that anybody asked
		// for.
		cells[i].field = r.table.LookupField(strings.Trim(name, `"`))
		cells[i].tells = name == badDate
		targets[i] = &cells[i]
	}
	nulls := none
	bytes := 0
	for rows.Next() {
		if r.most > 0 && bytes > r.most {
			r.cut = true
			return r.Len(), nil
		}
		row := r.next()
		for i := range cells {
			cells[i].row = row
		}
		if err := scanRow(ctx, rows, r.table, row, cells, targets); err != nil {
			return 0, err
		}
		nulls = nullsOf(cells, nulls)
		r.nulls = append(r.nulls, nulls)
		for i := range cells {
			bytes += cells[i].bytes
		}
	}
	return r.Len(), rows.Err()
}

// next makes room for a row. reflect.Append would allocate for each.
func (r *Rows) next() reflect.Value {
	n := r.list.Len()
	r.list.Grow(1)
	r.list.SetLen(n + 1)
	row := r.list.Index(n)
	row.SetZero()
	return row
}

// ScanError is returned for a value that its field's Go type does not take.
type ScanError struct {
	// Row is the row but for that column.
	Row   reflect.Value
	Field *schema.Field
	Err   error
}

func (e *ScanError) Error() string {
	field := e.Field
	return fmt.Sprintf("column %s: it does not fit a %s: %v", field.Name, field.IndirectType, e.Err)
}

func (e *ScanError) Unwrap() error { return e.Err }

// scanRow reads one row and runs the model's hooks, as bun does.
func scanRow(
	ctx context.Context, rows *sql.Rows, table *schema.Table, row reflect.Value, cells []cell,
	targets []any,
) error {
	if hook, has := row.Addr().Interface().(bun.BeforeScanRowHook); has {
		if err := hook.BeforeScanRow(ctx); err != nil {
			return err
		}
	}
	if err := rows.Scan(targets...); err != nil {
		return err
	}
	for i := range cells {
		if cells[i].err != nil {
			return &ScanError{Row: row, Field: cells[i].field, Err: cells[i].err}
		}
		if cells[i].named != "" {
			return &ScanError{Row: row, Field: table.LookupField(cells[i].named), Err: errBadDate}
		}
	}
	if hook, has := row.Addr().Interface().(bun.AfterScanRowHook); has {
		return hook.AfterScanRow(ctx)
	}
	return nil
}

// nullsOf are the NULLs of the present row. Most rows have those of the row before them, and share
// the map.
func nullsOf(cells []cell, before Nulls) Nulls {
	n, same := 0, true
	for i := range cells {
		if cells[i].isNull() {
			n++
			same = same && before[cells[i].field.Name]
		}
	}
	if same && n == len(before) {
		return before
	}
	nulls := make(Nulls, n)
	for i := range cells {
		if cells[i].isNull() {
			nulls[cells[i].field.Name] = true
		}
	}
	return nulls
}

// cell is where database/sql puts one column of the present row.
type cell struct {
	field *schema.Field
	row   reflect.Value
	null  bool
	tells bool   // its value names a column
	named string // which
	err   error
	bytes int
}

func (c *cell) isNull() bool { return c.null && c.field != nil }

// small is what a value takes that is neither text nor bytes.
const small = 8

// Scan implements sql.Scanner. It keeps its error, so that the rest of the row is read, and can be
// named.
func (c *cell) Scan(src any) error {
	c.null, c.err, c.named = src == nil, nil, ""
	switch value := src.(type) {
	case string:
		c.bytes = len(value)
	case []byte:
		c.bytes = len(value)
	default:
		c.bytes = small
	}
	if c.tells && src != nil {
		text := sql.NullString{}
		_ = text.Scan(src) // a text always is one
		c.named = text.String
	}
	if c.field != nil {
		if c.err = checkBool(c.field, src); c.err == nil {
			c.err = c.field.ScanValue(c.row, src)
		}
	}
	return nil
}
