// Package answers_test asks whether a replica has what its master has, for every type of column that
// docs/types.md names, between every two kinds of database: written on the master, sent by a relay,
// applied, printed by both databases, compared by diff, changed by hand, found and repaired.
package answers_test

import (
	"testing"

	"github.com/cqrsync/cqrsync/tests/containers"
)

func TestMain(m *testing.M) { containers.Main(m) }
