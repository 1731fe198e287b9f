package manifest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// columnsOf asks the catalog.
func columnsOf(ctx context.Context, db *bun.DB, table string) ([]catalog.Column, error) {
	shape, err := catalog.ShapeOf(ctx, db, string(db.QueryGen().AppendIdent(nil, table)), table)
	if err != nil {
		return nil, err
	}
	if len(shape.Columns) == 0 {
		return nil, fmt.Errorf("table %s does not exist", table)
	}
	return shape.Columns, nil
}

// typeOf makes the struct that a service would have written for the table.
func typeOf(ctx context.Context, db *bun.DB, m Model) (reflect.Type, error) {
	columns, err := columnsOf(ctx, db, m.Table)
	if err != nil {
		return nil, err
	}
	if err := m.checkNames(columns); err != nil {
		return nil, err
	}
	fields := []reflect.StructField{{
		Name: "BaseModel", Type: reflect.TypeFor[bun.BaseModel](), Anonymous: true,
		Tag: reflect.StructTag(fmt.Sprintf(`bun:"table:%s,alias:t"`, m.Table)),
	}}
	// A key of several columns is a list in the order that the file gives them.
	slices.SortStableFunc(columns, func(a, b catalog.Column) int {
		return m.rank(a.Name) - m.rank(b.Name)
	})
	var errs []error
	var keys []reflect.StructField
	hasKey, sessionMatters := false, false
	for i, c := range columns {
		if len(m.Key) > 0 {
			c.IsKey = slices.Contains(m.Key, c.Name)
		}
		if !m.takes(c) {
			continue
		}
		hasKey = hasKey || c.IsKey
		field, err := fieldOf(c, i, db.Dialect().Name(), m.Types[c.Name])
		if err != nil {
			errs = append(errs, fmt.Errorf("column %q of table %s: %w", c.Name, m.Table, err))
			continue
		}
		sessionMatters = sessionMatters || printsBySession(db.Dialect().Name(), c)
		fields = append(fields, field)
		if c.IsKey {
			keys = append(keys, field)
		}
	}
	if sessionMatters {
		errs = append(errs, checkPostgresSession(ctx, db))
	}
	if !hasKey {
		errs = append(errs, fmt.Errorf(
			"table %s has no primary key: name the columns under key", m.Table))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	relations, err := m.relationFields(ctx, db, keys)
	if err != nil {
		return nil, err
	}
	return reflect.StructOf(append(fields, relations...)), nil
}

// takes says that a column is one of the model's. Columns that the database computes can be read,
// and not written: they are where the file names them.
func (m Model) takes(c catalog.Column) bool {
	named := slices.Contains(m.Columns, c.Name)
	_, constant := m.Constants[c.Name]
	switch {
	case c.IsKey || named || constant:
		return true
	case c.Generated:
		return false
	default:
		return len(m.Columns) == 0
	}
}

// rank is the place of a column in the file's key, and behind it for all others.
func (m Model) rank(name string) int {
	if i := slices.Index(m.Key, name); i >= 0 {
		return i
	}
	return len(m.Key)
}

// checkNames says which names of the file the table does not have.
func (m Model) checkNames(columns []catalog.Column) error {
	var errs []error
	check := func(field, name string) {
		if !slices.ContainsFunc(columns, func(c catalog.Column) bool { return c.Name == name }) {
			errs = append(errs, fmt.Errorf("%s: table %s has no column %q", field, m.Table, name))
		}
	}
	for _, name := range m.Key {
		check("key", name)
	}
	for _, name := range m.Columns {
		check("columns", name)
	}
	for _, name := range m.Track {
		check("track", name)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Constants)) {
		check("constants", name)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Types)) {
		check("types", name)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Map)) {
		check("map", name)
		if len(m.Columns) > 0 && !slices.Contains(m.Columns, name) && !slices.Contains(m.Key, name) &&
			!slices.ContainsFunc(columns, func(c catalog.Column) bool {
				return c.Name == name && c.IsKey && len(m.Key) == 0
			}) {
			errs = append(errs, fmt.Errorf(
				"map: column %q is not among columns, so it is not kept: add it there", name))
		}
	}
	return errors.Join(errs...)
}

// fieldOf is the field of the struct. Its Go name is nobody's business.
func fieldOf(c catalog.Column, i int, name dialect.Name, said string) (reflect.StructField, error) {
	if !columnName.MatchString(c.Name) {
		return reflect.StructField{}, errors.New(
			"names of letters, digits and _ are known here: list the others under columns")
	}
	typ, sqlType, err := goType(name, c)
	if said != "" {
		sqlType = ""
		typ, err = saidType(c, said)
	}
	if err != nil {
		return reflect.StructField{}, err
	}
	if !c.NotNull && !c.IsKey && typ.Kind() != reflect.Slice {
		typ = reflect.PointerTo(typ)
	}
	tag := c.Name
	if c.IsKey {
		tag += ",pk"
	}
	if sqlType != "" {
		tag += ",type:" + sqlType
	}
	return reflect.StructField{
		Name: fmt.Sprintf("Column%d", i), Type: typ,
		Tag: reflect.StructTag(fmt.Sprintf(`bun:"%s" json:"%s"`, tag, c.Name)),
	}, nil
}

// printsBySession says that PostgreSQL makes another text of the
// column's values for another session.
func printsBySession(name dialect.Name, c catalog.Column) bool {
	if name != dialect.PG {
		return false
	}
	isTime := strings.HasPrefix(c.Base, "time") || c.Base == "date" || c.Base == "interval"
	isOther := c.Class == catalog.RangeType &&
		c.Base != "int4range" && c.Base != "int8range" && c.Base != "numrange"
	return c.Base == "interval" || c.Base == "timetz" || c.Array && isTime ||
		c.Class == catalog.CompositeType || isOther
}

// checkPostgresSession refuses settings by which the two sides would print one value in two ways.
func checkPostgresSession(ctx context.Context, db *bun.DB) error {
	var s struct{ Interval, Date, Zone string }
	err := db.NewRaw(`SELECT current_setting('IntervalStyle') AS "interval",
		current_setting('DateStyle') AS "date", current_setting('TimeZone') AS zone`).Scan(ctx, &s)
	if err != nil {
		return fmt.Errorf("ask the database about the session: %w", err)
	}
	var wrong []string
	if s.Interval != "postgres" {
		wrong = append(wrong, "IntervalStyle is "+s.Interval+", want postgres")
	}
	if !strings.HasPrefix(s.Date, "ISO") {
		wrong = append(wrong, "DateStyle is "+s.Date+", want ISO")
	}
	switch s.Zone {
	case "UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "UCT":
	default:
		wrong = append(wrong, "TimeZone is "+s.Zone+", want UTC")
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the table has ranges, intervals or lists of times, which PostgreSQL prints "+
		"by settings of the session: %s; run ALTER ROLE … SET, or put them into the URL, "+
		"as in ?timezone=UTC", strings.Join(wrong, "; "))
}
