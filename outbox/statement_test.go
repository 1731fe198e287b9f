package outbox

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"
)

func TestColumnsThatAnUpdateAssigns(t *testing.T) {
	columns := assigned(lex(`UPDATE "t" AS "u" SET "a" = 1, u.b = (SELECT x FROM y WHERE z = 2), c = 'd = 1' WHERE e = 1`, dialect.PG))
	require.Equal(t, []string{"a", "B", "C"}, columns)
}

func TestConflictClause(t *testing.T) {
	columns, updates := conflict(lex(`INSERT INTO t VALUES (' ON CONFLICT (x) DO NOTHING') ON CONFLICT ("a", b) DO UPDATE SET c = 1`, dialect.PG))
	require.Equal(t, []string{"a", "B"}, columns)
	require.True(t, updates)
	_, updates = conflict(lex(`INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING`, dialect.SQLite))
	require.False(t, updates)
	_, updates = conflict(lex(`INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE c = 1`, dialect.MySQL))
	require.True(t, updates)
}
