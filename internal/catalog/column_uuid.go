package catalog

import (
	"regexp"
	"strconv"
)

// UUIDForm is how a column keeps a uuid.
type UUIDForm int

// The forms. A column of another type keeps none.
const (
	NoUUID     UUIDForm = iota
	TextUUID            // a text with hyphens, or the database's own type
	HexUUID             // 32 digits
	BinaryUUID          // 16 bytes
)

// The lengths of a uuid's forms.
const (
	hyphenated, digits, bytes16 = 36, 32, 16
)

var declaredLength = regexp.MustCompile(`\(\s*([0-9]+)\s*\)`)

// Declared is the length that the column's declaration has, also where the database does not care
// (SQLite); 0 for none.
func (c Column) Declared() int {
	if c.Size > 0 {
		return c.Size
	}
	if found := declaredLength.FindStringSubmatch(c.Type); found != nil {
		n, _ := strconv.Atoi(found[1]) // one beyond all numbers is no length
		return n
	}
	return 0
}

// UUIDForm says how the column keeps a uuid, by its type.
func (c Column) UUIDForm() UUIDForm {
	if c.Array {
		return NoUUID
	}
	length := c.Declared()
	switch c.Base {
	case "uuid":
		return TextUUID
	case "char", "varchar", "bpchar", "character", "character varying", "nchar", "nvarchar",
		"varying character", "native character", "text", "tinytext", "mediumtext", "longtext",
		"clob":
		switch {
		case length == digits:
			return HexUUID
		case length == 0 && c.Base != "char" || length >= hyphenated:
			return TextUUID
		}
	case "binary", "bytea", "blob", "varbinary", "tinyblob", "mediumblob", "longblob":
		if length == 0 || length == bytes16 || length > bytes16 && c.Base != "binary" {
			return BinaryUUID
		}
	}
	return NoUUID
}

// UUIDField is the type of package column that a uuid's field must have; empty where any type does.
// A text in bytes without a length is no harm: it is read as it was written.
func (c Column) UUIDField() string {
	switch form := c.UUIDForm(); {
	case form == HexUUID:
		return "HexUUID"
	case form == BinaryUUID && c.Declared() == bytes16:
		return "BinaryUUID"
	}
	return ""
}
