package replica

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// Databases refuse most values that a column does not take, and change others without a word: they
// round, cut, pad, or read '2' as the second label of an enum. A replica refuses those too.

// limit says why a column would not keep a value, which stands as SQL, as it is.
type limit func(value string) error

// limitOf is the limit of a column, nil where there is none.
func limitOf(name dialect.Name, c catalog.Column) limit {
	if c.Array {
		return nil
	}
	l := sqliteLimit
	switch name {
	case dialect.PG:
		l = postgresLimit
	case dialect.MySQL:
		l = mysqlLimit
	}
	if c.UUIDForm() == catalog.HexUUID && c.Base != "varchar" {
		return all(withoutHyphens(c), l(c))
	}
	return l(c)
}

func postgresLimit(c catalog.Column) limit {
	switch c.Base {
	case "numeric":
		return decimals(c, "numeric")
	case "timestamp", "timestamptz", "time", "timetz":
		return secondsOf(c)
	case "date":
		return dateOnly
	case "float4":
		return singlePrecision(c, func(f float64) string {
			return strconv.FormatFloat(f, 'g', -1, 32)
		})
	case "varchar":
		return atMost(c)
	case "bpchar":
		return padded(c)
	}
	return nil
}

func mysqlLimit(c catalog.Column) limit {
	switch c.Base {
	case "tinyint", "smallint", "mediumint", "int", "bigint", "year":
		c.Scale = 0
		return all(finite(c), decimals(c, "decimal"), drawn(c))
	case "decimal":
		return all(finite(c), decimals(c, "decimal"))
	case "double":
		return finite(c)
	case "datetime", "timestamp", "time":
		return secondsOf(c)
	case "date":
		return dateOnly
	case "float":
		return all(finite(c),
			singlePrecision(c, func(f float64) string {
				return strconv.FormatFloat(f, 'g', 6, 64)
			}))
	case "varchar":
		return atMost(c)
	case "char":
		return all(atMost(c), unpadded(c))
	case "binary":
		return wholeBinary(c)
	case "enum", "set":
		return labels(c)
	}
	return nil
}

func all(limits ...limit) limit {
	return func(value string) error {
		for _, l := range limits {
			if l != nil {
				if err := l(value); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// plain is the text of a literal, without its quotes; ok is false for NULL and for expressions.
func plain(value string) (text string, quoted, ok bool) {
	switch {
	case value == "" || value == "NULL":
		return "", false, false
	case value[0] == '\'' && len(value) >= 2 && value[len(value)-1] == '\'':
		return strings.ReplaceAll(value[1:len(value)-1], "''", "'"), true, true
	default:
		return value, false, numeric.MatchString(value)
	}
}

var numeric = regexp.MustCompile(`^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?\s*$`)

// decimals refuses what would be rounded.
func decimals(c catalog.Column, typ string) limit {
	if c.Scale < 0 {
		return nil
	}
	return func(value string) error {
		text, _, ok := plain(value)
		if !ok || !strings.ContainsAny(text, ".eE") || !numeric.MatchString(text) {
			return nil
		}
		n, ok := new(big.Rat).SetString(strings.TrimSpace(text))
		if !ok {
			return nil
		}
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(c.Scale)), nil)
		if !n.Mul(n, new(big.Rat).SetInt(scale)).IsInt() {
			return fmt.Errorf("%s would round it to %d digits after the point; make it a %s with "+
				"as many as the master's",
				c.Type, c.Scale, typ)
		}
		return nil
	}
}

var fraction = regexp.MustCompile(`:\d\d\.(\d+)`)

// secondsOf refuses a time whose fraction of a second would be rounded.
func secondsOf(c catalog.Column) limit {
	const all = 6 // what the wire has
	if c.Scale < 0 || c.Scale >= all {
		return nil
	}
	typ := strings.TrimRight(c.Base, "()0123456789")
	return func(value string) error {
		found := fraction.FindStringSubmatch(value)
		if found == nil || len(strings.TrimRight(found[1], "0")) <= c.Scale {
			return nil
		}
		return fmt.Errorf("%s keeps %d digits of the fraction of a second, and would round it; "+
			"make it %s(6)",
			c.Type, c.Scale, typ)
	}
}

var timeOfDay = regexp.MustCompile(`[ T](\d\d:\d\d:\d\d(?:\.\d+)?)`)

// dateOnly refuses a time of day in a date.
func dateOnly(value string) error {
	found := timeOfDay.FindStringSubmatch(value)
	if found == nil || strings.Trim(found[1], "0:.") == "" {
		return nil
	}
	return errors.New("a date would lose the time of day; make it a timestamp, or send a date")
}

// singlePrecision refuses a number that the column would show as another one.
func singlePrecision(c catalog.Column, show func(float64) string) limit {
	return func(value string) error {
		text, _, ok := plain(value)
		if !ok {
			return nil
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil //nolint:nilerr // NaN and its kind, or nothing that this column takes
		}
		if again, err := strconv.ParseFloat(show(f), 64); err != nil || again != f {
			return fmt.Errorf("%s would round it; make it double precision", c.Type)
		}
		return nil
	}
}

// atMost refuses a text that is too long. Databases do, but for spaces at its end, which they cut.
func atMost(c catalog.Column) limit {
	if c.Size == 0 {
		return nil
	}
	return func(value string) error {
		text, quoted, ok := plain(value)
		if !ok || !quoted || len(text) <= c.Size || !strings.HasSuffix(text, " ") {
			return nil
		}
		if n := utf8.RuneCountInString(text); n > c.Size {
			return fmt.Errorf("it has %d characters, of which the column would keep %d; make it "+
				"longer", n, c.Size)
		}
		return nil
	}
}

// padded refuses spaces at the end, unless they fill PostgreSQL's char(n): it does not tell them
// from those that it adds itself, which count for nothing.
func padded(c catalog.Column) limit {
	return func(value string) error {
		text, quoted, ok := plain(value)
		if !ok || !quoted || !strings.HasSuffix(text, " ") ||
			utf8.RuneCountInString(text) == c.Size {
			return nil
		}
		return errors.New("a char column does not tell spaces at the end of a text from those " +
			"that it adds; make it varchar or text")
	}
}

// unpadded refuses spaces at the end, which MariaDB's char(n) does not give back.
func unpadded(c catalog.Column) limit {
	return func(value string) error {
		if text, quoted, ok := plain(value); ok && quoted && strings.HasSuffix(text, " ") {
			return fmt.Errorf("a %s column loses spaces at the end of a text; make it varchar",
				c.Base)
		}
		return nil
	}
}

// wholeBinary refuses bytes that MariaDB's binary(n) would fill up with zeros.
func wholeBinary(c catalog.Column) limit {
	return func(value string) error {
		digits, found := strings.CutPrefix(value, "X'")
		if digits = strings.TrimSuffix(digits, "'"); found && len(digits) != 2*c.Size {
			return fmt.Errorf("a binary(%d) column fills up %d bytes with zeros; make it varbinary",
				c.Size, len(digits)/2)
		}
		return nil
	}
}

var label = regexp.MustCompile(`'((?:[^']|'')*)'`)

// labels refuses what MariaDB would take for the number or another spelling of a label.
func labels(c catalog.Column) limit {
	var known []string
	for _, found := range label.FindAllStringSubmatch(c.Type, -1) {
		known = append(known, strings.ReplaceAll(found[1], "''", "'"))
	}
	return func(value string) error {
		text, _, ok := plain(value)
		if !ok || c.Base == "set" && text == "" {
			return nil
		}
		at := -1
		members := []string{text}
		if c.Base == "set" {
			members = strings.Split(text, ",")
		}
		for _, member := range members {
			i := slices.Index(known, strings.ReplaceAll(member, `\\`, `\`))
			if i <= at {
				return fmt.Errorf("it is none of the labels of %s as they are spelled and sorted "+
					"there; add it to the column", c.Type)
			}
			at = i
		}
		return nil
	}
}

// drawn refuses a zero in place of which MariaDB would draw a number.
func drawn(c catalog.Column) limit {
	if !c.ZeroDraws {
		return nil
	}
	return func(value string) error {
		if text, _, ok := plain(value); ok && strings.Trim(text, "0") == "" {
			return errors.New("AUTO_INCREMENT puts another number in the place of 0; open the " +
				"database with sql_mode='STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO', or make the " +
				"column one without AUTO_INCREMENT")
		}
		return nil
	}
}
