package manifest

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// These are the columns that Go's own types do not hold as the databases do. Alike are the values
// that the master may have where the column holds this one, because one database has a type that
// the other has not: a comparison takes them for equal.

// number is an integer. MariaDB's masters may send its booleans, which are numbers there, as true.
type number int64

// UnmarshalJSON reads a number or a boolean.
func (n *number) UnmarshalJSON(raw []byte) error {
	i, err := integerOf(raw)
	*n = number(i)
	return err
}

// Alike are what a master has that knows booleans.
func (n number) Alike() []json.RawMessage { return alikeTruth(int64(n)) }

func integerOf(raw []byte) (int64, error) {
	switch text := string(raw); text {
	case "true":
		return 1, nil
	case "false":
		return 0, nil
	default:
		i, err := strconv.ParseInt(strings.Trim(text, `"`), 10, 64)
		if err != nil {
			return 0, errors.New("want an integer of 64 bits")
		}
		return i, nil
	}
}

func alikeTruth(n int64) []json.RawMessage {
	switch n {
	case 0:
		return []json.RawMessage{json.RawMessage("false"), json.RawMessage("0")}
	case 1:
		return []json.RawMessage{json.RawMessage("true"), json.RawMessage("1")}
	}
	return nil
}

// flag is MariaDB's tinyint(1): a boolean to most, a small number to some.
type flag int64

// MarshalJSON writes 0 and 1 as booleans, as services do, and any other number as it is.
func (f flag) MarshalJSON() ([]byte, error) {
	if f == 0 || f == 1 {
		return strconv.AppendBool(nil, f == 1), nil
	}
	return strconv.AppendInt(nil, int64(f), 10), nil
}

// UnmarshalJSON reads a number or a boolean.
func (f *flag) UnmarshalJSON(raw []byte) error {
	i, err := integerOf(raw)
	*f = flag(i)
	return err
}

// Value writes the number, where bun would write the JSON.
func (f flag) Value() (driver.Value, error) { return int64(f), nil }

// Alike are what a master has that knows numbers.
func (f flag) Alike() []json.RawMessage { return alikeTruth(int64(f)) }

// bits are MariaDB's bit(n), as the number that they are there.
type bits uint64

// Scan reads what the driver returns: bytes, the highest first.
func (b *bits) Scan(src any) error {
	bytes, ok := src.([]byte)
	const most = 8
	if !ok || len(bytes) > most {
		return fmt.Errorf("want up to 8 bytes, not a %T", src)
	}
	*b = 0
	for _, c := range bytes {
		*b = *b<<8 | bits(c)
	}
	return nil
}

// Value writes the bytes.
func (b bits) Value() (driver.Value, error) {
	var bytes []byte
	for n := b; n > 0; n >>= 8 {
		bytes = append([]byte{byte(n)}, bytes...)
	}
	if bytes == nil {
		bytes = []byte{0}
	}
	return bytes, nil
}

// MarshalJSON writes the number.
func (b bits) MarshalJSON() ([]byte, error) { return strconv.AppendUint(nil, uint64(b), 10), nil }

// UnmarshalJSON reads a number, a boolean, or the digits that PostgreSQL's bit types are.
func (b *bits) UnmarshalJSON(raw []byte) error {
	text, base := string(raw), 10
	switch {
	case text == "true":
		text = "1"
	case text == "false":
		text = "0"
	case text[0] == '"':
		text, base = strings.Trim(text, `"`), 2
	}
	n, err := strconv.ParseUint(text, base, 64)
	if err != nil {
		return errors.New("want a number of up to 64 bits, or a string of up to 64 digits 0 and 1")
	}
	*b = bits(n)
	return nil
}

// Alike are the spellings that UnmarshalJSON takes for this one.
func (b bits) Alike() (alike []json.RawMessage) {
	digits := strconv.FormatUint(uint64(b), 2)
	const most = 64
	for n := len(digits); n <= most; n++ {
		alike = append(alike, json.RawMessage(`"`+strings.Repeat("0", n-len(digits))+digits+`"`))
	}
	if b <= 1 {
		alike = append(alike, json.RawMessage(strconv.FormatBool(b == 1)))
	}
	return alike
}

// padded is PostgreSQL's char(n), which adds spaces at the end that count for nothing.
type padded string

// Alike is the text without them.
func (p padded) Alike() []json.RawMessage {
	text, err := json.Marshal(strings.TrimRight(string(p), " "))
	if err != nil {
		return nil
	}
	return []json.RawMessage{text}
}

// decimal is a number as its digits. PostgreSQL's may be NaN or an infinity.
type decimal string

// HoldsNonFinite says so to the replica; a column that cannot hold them refuses them.
func (decimal) HoldsNonFinite() {}

// UnmarshalJSON reads a number, also one that JSON has no word for, or a string.
func (d *decimal) UnmarshalJSON(raw []byte) error {
	if raw[0] != '"' {
		if raw[0] == '{' || raw[0] == '[' || raw[0] == 't' || raw[0] == 'f' {
			return errors.New("want a number, or a string of its digits")
		}
		*d = decimal(raw)
		return nil
	}
	return json.Unmarshal(raw, (*string)(d))
}

// clock is MariaDB's time, without the zeros at the end of its fraction: no other database prints
// them.
type clock string

// Scan reads what the driver returns.
func (c *clock) Scan(src any) error {
	var text string
	switch src := src.(type) {
	case string:
		text = src
	case []byte:
		text = string(src)
	default:
		return fmt.Errorf("want the text of a time, not a %T", src)
	}
	if strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	*c = clock(text)
	return nil
}

// UnmarshalJSON reads a string.
func (c *clock) UnmarshalJSON(raw []byte) error {
	return json.Unmarshal(raw, (*string)(c))
}
