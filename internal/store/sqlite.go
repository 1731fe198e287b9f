package store

import (
	"fmt"
	"strings"
	"time"
)

// sqlite keeps times as integers: microseconds since 1970 in UTC.
type sqlite struct{}

func (sqlite) name() string                { return "sqlite" }
func (sqlite) quote() string               { return `"` }
func (sqlite) now() string                 { return "CAST(unixepoch('now', 'subsec') * 1000000 AS integer)" }
func (sqlite) micros(col string) string    { return col }
func (sqlite) time(t time.Time) any        { return t.UnixMicro() }
func (sqlite) greatest(a, b string) string { return "max(" + a + ", " + b + ")" }
func (sqlite) lockRows() string            { return "" }

// maxStatement stays under SQLITE_MAX_SQL_LENGTH, whose default is 1,000,000 bytes.
func (sqlite) maxStatement() int { return 512 << 10 }

func (sqlite) after(t string, d time.Duration) string {
	return fmt.Sprintf("(%s + %d)", t, d.Microseconds())
}

func (sqlite) tableExists(table string) string {
	return "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '" +
		strings.Trim(table, `"`) + "')"
}

func (sqlite) appliedColumns() string {
	return `(
    id          integer   PRIMARY KEY AUTOINCREMENT,
    name        text      NOT NULL UNIQUE,
    group_id    integer   NOT NULL,
    migrated_at timestamp NOT NULL DEFAULT current_timestamp
)`
}
