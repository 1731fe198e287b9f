package queue

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/uptrace/bun"
)

// binaryReader is the dialect of a bun.DB whose driver can hand out rows as PostgreSQL sends them
// (package database makes it). ReadBinary runs a query on a connection of that driver and gives
// read the values of one row after the other, in the binary format, nil for null, valid until read
// returns; an error of read ends the reading and is returned.
//
// database/sql makes a value of each column and copies it into another, and PostgreSQL writes all
// of them as text for it: that was a seventh of what a message costs the two and the relay
// together.
type binaryReader interface {
	ReadBinary(ctx context.Context, driverConn any, query string,
		read func(values [][]byte) error) error
}

// binary says that readRows reads PostgreSQL's binary format.
func (q *Queue) binary() (binaryReader, bool) {
	reader, ok := q.DB().Dialect().(binaryReader)
	return reader, ok
}

// readRows reads the rows of a query into columns, which are pointers as for sql.Rows.Scan, one
// after the other, and calls each for each. In binary no hook of bun sees the query.
func (q *Queue) readRows(
	ctx context.Context, conn bun.Conn, columns []any, each func() error, query string, args ...any,
) error {
	if reader, ok := q.binary(); ok {
		query = q.DB().QueryGen().FormatQuery(query, args...)
		return conn.Raw(func(driverConn any) error {
			return reader.ReadBinary(ctx, driverConn, query, func(values [][]byte) error {
				if err := decodeBinary(values, columns); err != nil {
					return err
				}
				return each()
			})
		})
	}
	rows, err := conn.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		if err := rows.Scan(columns...); err != nil {
			return err
		}
		if err := each(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// decodeBinary is sql.Rows.Scan for rows in the binary format.
func decodeBinary(values [][]byte, columns []any) error {
	if len(values) != len(columns) {
		return fmt.Errorf("%d columns, want %d", len(values), len(columns))
	}
	for i, value := range values {
		if err := decodeValue(value, columns[i]); err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
	}
	return nil
}

func decodeValue(value []byte, column any) (err error) {
	switch column := column.(type) {
	case *[]byte:
		*column = bytes.Clone(value)
		return nil
	case *sql.NullInt64:
		*column = sql.NullInt64{Valid: value != nil}
		if column.Valid {
			column.Int64, err = decodeInteger(value)
		}
		return err
	}
	if value == nil {
		return errors.New("null where there may be none")
	}
	switch column := column.(type) {
	case *string:
		if *column != string(value) { // else it is the one of the row before
			*column = string(value)
		}
	case *int64:
		*column, err = decodeInteger(value)
	case *bool:
		if len(value) != 1 {
			return fmt.Errorf("%d bytes where a boolean should be", len(value))
		}
		*column = value[0] != 0
	case *place:
		*column, err = decodePlace(value)
	default:
		err = fmt.Errorf("a %T cannot be read", column)
	}
	return err
}

// binaryEpoch is the one that the binary format counts the microseconds of a time from, 2000, in
// those since 1970.
const binaryEpoch = 946_684_800_000_000

// decodeInteger reads an integer of any size, or a time.
func decodeInteger(value []byte) (int64, error) {
	switch len(value) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(value))), nil
	case 4:
		return int64(int32(binary.BigEndian.Uint32(value))), nil
	case 8:
		return int64(binary.BigEndian.Uint64(value)), nil
	default:
		return 0, fmt.Errorf("%d bytes where a number should be", len(value))
	}
}

func decodePlace(value []byte) (place, error) {
	if len(value) != 6 {
		return "", fmt.Errorf("%d bytes where a ctid should be", len(value))
	}
	b := append(make([]byte, 0, len("(4294967295,65535)")), '(')
	b = strconv.AppendUint(b, uint64(binary.BigEndian.Uint32(value)), 10)
	b = strconv.AppendUint(append(b, ','), uint64(binary.BigEndian.Uint16(value[4:])), 10)
	return place(append(b, ')')), nil
}
