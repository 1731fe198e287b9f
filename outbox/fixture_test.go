package outbox_test

import (
	"context"
	"strings"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/dialect/feature"
)

// run runs the statements of the fixture's database, which "; " separates except within $$.
func (f fixture) run(statements map[dialect.Name]string) {
	f.Helper()
	text := statements[f.db.Dialect().Name()]
	require.NotEmpty(f, text)
	f.raw(text)
}

// raw runs statements past bun, as another program would. PostgreSQL takes several at once.
func (f fixture) raw(text string) {
	f.Helper()
	parts := []string{text}
	if f.db.Dialect().Name() != dialect.PG && !strings.Contains(text, "BEGIN") {
		parts = strings.Split(text, ";")
	}
	for _, part := range parts {
		if strings.TrimSpace(part) != "" {
			_, err := f.db.DB.ExecContext(context.WithoutCancel(f.Context()), part)
			require.NoError(f, err, part)
		}
	}
}

// onlyWithUpdateReturning runs fn where bun has UPDATE … RETURNING: not on MariaDB.
func (f fixture) onlyWithUpdateReturning(fn func()) {
	if f.db.HasFeature(feature.Returning) {
		fn()
	}
}
