package outbox_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

var update = flag.Bool("update", false, "write docs/capture.md anew")

const documentHead = `# What is captured, and what is refused

Every way to write a tracked table inside ` + "`Box.RunInTx`" + `, tried on tables that hold the orders 1 and 2, the file 1, and a note
"old" that was there before cqrsync. A refused statement has not run, and its transaction does not commit, even if the
error is ignored. Captured is what the outbox then holds: model, key, revision, signal.

This page is written by a test (` + "`go test ./outbox -run Document -update`" + `) and checked by it.

| statement | outcome |
|---|---|
`

const documentTail = `
Outside ` + "`Box.RunInTx`" + ` every write to a tracked table is refused, unless it runs under ` + "`outbox.Explicit(ctx)`" + `.

Not seen, because they do not pass through bun: statements on ` + "`*sql.DB`, `*sql.Tx` and `*sql.Conn`" + `, prepared statements, COPY
through a driver, triggers, foreign keys with ON DELETE or ON UPDATE actions, and other programs. Report such rows with
` + "`Box.Saved` and `Box.Deleted`" + `, those of a ` + "`*sql.Tx` with `Box.Capture`" + `, or send the entity they belong to again with ` + "`outbox.Touch`" + `.
Native pgx transactions are neither; ` + "`Box.Capture`" + ` says how to use pgx within one that is.
`

// The page in docs is what the library does, not what somebody remembers of it.
func TestDocumentSaysWhatHappens(t *testing.T) {
	var page strings.Builder
	page.WriteString(documentHead)
	for _, c := range statements {
		f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
		f.prepareStatements()
		err := f.inTx(c.write)
		outcome := "captured: " + strings.Join(summary(f.take()), ", ")
		var refused *outbox.RefusedError
		switch {
		case errors.As(err, &refused):
			outcome = "refused: " + refused.Reason
		case err != nil:
			t.Fatal(err)
		case outcome == "captured: ":
			outcome = "nothing to send"
		}
		fmt.Fprintf(&page, "| %s | %s |\n", c.name, outcome)
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewUpdate().Model((*Order)(nil)).Set("status = 'x'").Where("id = 1").Exec(ctx))
	})
	fmt.Fprintf(&page, "\nThe whole error of a refusal:\n\n```\n%s\n```\n%s", err, documentTail)

	const path = "../docs/capture.md"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644))
	}
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, page.String(), string(written), "run go test ./outbox -run Document -update")
}
