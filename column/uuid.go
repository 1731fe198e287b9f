// Package column has Go types for columns that keep a value otherwise than messages do: UUIDs that
// Django keeps as char(32) without hyphens where the database has no type for them (SQLite, older
// MariaDB), and UUIDs in binary(16).
//
//	type Book struct {
//		bun.BaseModel `bun:"table:books"`
//		ID            column.HexUUID `bun:",pk,type:char(32)"`
//	}
//
// In Go they are the 16 bytes of a uuid.UUID and convert to it (uuid.UUID(book.ID)); in messages,
// ledgers and JSON they are its lower-case text with hyphens, however the column spells them. They
// are for masters and for replicas. A cqrsync.yaml says types: {id: uuid}.
package column

import (
	"database/sql/driver"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

type (
	// HexUUID is a uuid in a char(32) column, without hyphens.
	HexUUID uuid.UUID
	// BinaryUUID is a uuid in a binary(16) column (bytea, blob), in the order of its text.
	BinaryUUID uuid.UUID
	// TextUUID is a uuid in a column of the type uuid, or in a text of 36 characters: with hyphens,
	// in lower case, whatever it was read from.
	TextUUID uuid.UUID
)

// Value writes the column: 32 digits.
func (u HexUUID) Value() (driver.Value, error) { return hex.EncodeToString(u[:]), nil }

// Value writes the column: 16 bytes.
func (u BinaryUUID) Value() (driver.Value, error) { return u[:], nil }

// Value writes the column: a text with hyphens.
func (u TextUUID) Value() (driver.Value, error) { return u.String(), nil }

// Scan reads the column.
func (u *HexUUID) Scan(src any) error { return scan((*uuid.UUID)(u), src) }

// Scan reads the column.
func (u *BinaryUUID) Scan(src any) error { return scan((*uuid.UUID)(u), src) }

// Scan reads the column.
func (u *TextUUID) Scan(src any) error { return scan((*uuid.UUID)(u), src) }

// String is the text with hyphens.
func (u HexUUID) String() string { return uuid.UUID(u).String() }

// String is the text with hyphens.
func (u BinaryUUID) String() string { return uuid.UUID(u).String() }

// String is the text with hyphens.
func (u TextUUID) String() string { return uuid.UUID(u).String() }

// MarshalText writes the text with hyphens.
func (u HexUUID) MarshalText() ([]byte, error) { return uuid.UUID(u).MarshalText() }

// MarshalText writes the text with hyphens.
func (u BinaryUUID) MarshalText() ([]byte, error) { return uuid.UUID(u).MarshalText() }

// MarshalText writes the text with hyphens.
func (u TextUUID) MarshalText() ([]byte, error) { return uuid.UUID(u).MarshalText() }

// UnmarshalText reads any spelling.
func (u *HexUUID) UnmarshalText(text []byte) error { return read((*uuid.UUID)(u), string(text)) }

// UnmarshalText reads any spelling, and base64 of the bytes, as which a []byte travels.
func (u *BinaryUUID) UnmarshalText(text []byte) error { return read((*uuid.UUID)(u), string(text)) }

// UnmarshalText reads any spelling.
func (u *TextUUID) UnmarshalText(text []byte) error { return read((*uuid.UUID)(u), string(text)) }

// Alike are the spellings that a master may have whose column is a text or bytes to it: a
// comparison takes them for equal.
func (u HexUUID) Alike() []json.RawMessage { return alike(uuid.UUID(u)) }

// Alike is as HexUUID's.
func (u BinaryUUID) Alike() []json.RawMessage { return alike(uuid.UUID(u)) }

// Alike is as HexUUID's.
func (u TextUUID) Alike() []json.RawMessage { return alike(uuid.UUID(u)) }

func alike(u uuid.UUID) (all []json.RawMessage) {
	digits := hex.EncodeToString(u[:])
	for _, text := range []string{
		u.String(), digits, strings.ToUpper(u.String()), strings.ToUpper(digits),
		base64.StdEncoding.EncodeToString(u[:]),
	} {
		all = append(all, json.RawMessage(`"`+text+`"`))
	}
	return all
}

var errNone = errors.New("want a uuid: 32 hexadecimal digits, with hyphens or without")

func read(u *uuid.UUID, text string) error {
	if parsed, err := uuid.Parse(strings.TrimRight(text, " ")); err == nil { // a char column pads
		*u = parsed
		return nil
	}
	if data, err := base64.StdEncoding.DecodeString(text); err == nil && len(data) == len(u) {
		copy(u[:], data)
		return nil
	}
	return errNone
}

func scan(u *uuid.UUID, src any) error {
	switch src := src.(type) {
	case nil:
		*u = uuid.UUID{}
		return nil
	case string:
		return read(u, src)
	case []byte:
		if len(src) == len(u) {
			copy(u[:], src)
			return nil
		}
		return read(u, string(src))
	case [16]byte: // pgx's
		*u = src
		return nil
	default:
		return fmt.Errorf("%w, not a %T", errNone, src)
	}
}
