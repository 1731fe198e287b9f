package outbox_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

var update = flag.Bool("update", false, "write docs/capture.md anew; needs all databases")

const documentHead = `# What is captured, and what is refused

Every way to write a tracked table inside ` + "`Box.RunInTx`" + `, tried on tables that hold the orders 1 and 2, the
file 1, and a note "old" that was there before cqrsync. A refused statement has not run, and its
transaction does not commit, even if the error is ignored. "Not committed" is a transaction that is
found wrong at its end. Captured is what the outbox then holds: model, key, revision, signal. Where
databases differ, each is named; where one is not named, it has no such thing.

This page is written by a test (` + "`go test ./outbox -run Document -update`" + `) and checked by it.
`

const documentTail = "\nThe rules behind it:\n" + `
- Keys are taken before a statement runs, and are those that the database stores, however they are spelled.
- An INSERT yields as many keys as rows, or is refused.
- The flush reads rows behind the lock of the ledger. A row that the transaction wrote whole is compared
  with the database in the statement that records it (PostgreSQL), and read where it differs.
- A row that a statement of the transaction left there must be there at its end. The flush does not take
  "not found" for "deleted".
- Rows of a relation send the entity that they belong to. Where a statement does not tell it, the
  transaction must name one: ` + "`outbox.Touch`, `Box.Saved` or `Box.Deleted`" + `. Report the stored spelling of a key.
- Where a trigger changes the key of a row, write with ` + "`Returning(\"*\")`" + `, one row at a time. A statement whose
  rows are not found under the keys that it names is refused, or not committed. For that, tables with
  triggers are asked before and after an INSERT, and an UPDATE of several rows, what stands under the keys.
- A null on the wire is a NULL in the database: the zero of a ` + "`nullzero`" + ` column is sent as it is stored.
- What replicas could not read is refused with a ` + "`ValueError`" + `: years outside 1 to 9999, infinite
  timestamps, invalid UTF-8, a NUL in a text; correlation ids over 255 bytes; headers with control
  characters, over 16 kB in all, or named CC, BCC or as cqrsync's own.
- Messages have columns under their own names, or under those of ` + "`outbox.Rename`" + `; so do previous values. A
  name that collides, or is the key's, is refused at Register.
- NaN and the infinities travel as Python has them, bare, also in lists of numbers; ` + "`outbox.NaNAsNull`" + ` sends null.
  Within another value (a struct, a Serializer's object) they are refused with a ` + "`ValueError`" + `.
- A uuid travels as its lower-case text with hyphens, which is its key, too. For char(32) and binary(16) columns there are
  the types of package column; ` + "`Box.Check`" + ` refuses a uuid.UUID on one.
- Deferred triggers and constraints run before the flush reads (` + "`SET CONSTRAINTS ALL IMMEDIATE`" + `).
- A goroutine that still writes with tx when the function of RunInTx returns forbids the commit.
- A transaction that the database has ended by itself (a deadlock on MariaDB, a full disk on SQLite)
  refuses every further statement.

Outside ` + "`Box.RunInTx`" + ` every write to a tracked table is refused, unless it runs under
` + "`outbox.Explicit(ctx)`" + `. So are statements whose text does not tell what they reach (CALL, EXECUTE,
` + "`TRUNCATE … CASCADE`" + `, a DO that executes text), and other unclear ones that name a tracked table.
Changes of the schema run.

Not seen, because they do not pass through bun or do not stand in a statement's text: statements on
` + "`*sql.DB`, `*sql.Tx` (also as `tx.Tx`) and `*sql.Conn`" + `, prepared statements, COPY through a
driver, what triggers and functions (` + "`SELECT f()`" + `) write to rows that the transaction did not touch
itself, foreign keys with ON DELETE or ON UPDATE actions (` + "`Box.Check`" + ` reports them), and other
programs. Report such rows with ` + "`Box.Saved` and `Box.Deleted`" + `, those of a ` + "`*sql.Tx` with `Box.Capture`" + `,
or send the entity they belong to again with ` + "`outbox.Touch`" + `. Native pgx transactions are neither;
` + "`Box.Capture`" + ` says how to use pgx within one that is. A partition or view that is made while a service
runs is known under its own name a minute later.
`

type documentedDatabase struct {
	name string
	db   dialect.Name
	url  func(testing.TB) string
}

var documented = []documentedDatabase{
	{"PostgreSQL", dialect.PG, dbtest.PostgresURL}, {"MariaDB", dialect.MySQL, dbtest.MariaDBURL},
	{"SQLite", dialect.SQLite, dbtest.SQLiteURL},
}

// entry is a line of the page: what becomes of a transaction.
type entry struct {
	name string
	try  func(f fixture) (outcome string, can bool)
}

func documentedEntries() (statementEntries, insertEntries, situationEntries []entry) {
	for _, c := range statements {
		statementEntries = append(statementEntries, entry{c.name, func(f fixture) (string, bool) {
			f.prepareStatements()
			err := f.inTx(c.write)
			var refused *outbox.RefusedError
			if err != nil && !errors.As(err, &refused) && !strings.Contains(err.Error(), "cqrsync: ") {
				return "", false // no such syntax there
			}
			return f.outcome(err), true
		}})
	}
	for _, c := range inserts {
		insertEntries = append(insertEntries, entry{"`" + c.name + "`", func(f fixture) (string, bool) {
			f.insert(&[]Order{{Number: "a"}, {Number: "b"}})
			f.take()
			return f.outcome(f.inTx(c.insert)), true
		}})
	}
	for _, s := range situations {
		situationEntries = append(situationEntries, entry{s.name, func(f fixture) (string, bool) {
			if len(s.only) > 0 && !slices.Contains(s.only, f.db.Dialect().Name()) {
				return "", false
			}
			if s.prepare != nil {
				s.prepare(f)
			}
			f.take()
			return f.outcome(s.run(f)), true
		}})
	}
	return statementEntries, insertEntries, situationEntries
}

// outcome is what became of a transaction.
func (f fixture) outcome(err error) string {
	var refused *outbox.RefusedError
	var value *outbox.ValueError
	switch {
	case errors.As(err, &refused) && refused.Verb == "COMMIT" && refused.Table != "":
		return "not committed: " + refused.Reason
	case errors.As(err, &refused):
		return "refused: " + refused.Reason
	case errors.As(err, &value):
		return "refused: " + value.Reason
	case err != nil:
		return "refused: " + strings.TrimPrefix(err.Error(), "outbox: ")
	}
	if sent := summary(f.take()); len(sent) > 0 {
		return "captured: " + strings.Join(sent, ", ")
	}
	return "nothing to send"
}

// The page in docs is what the library does, not what somebody remembers of it. What was tried on a
// database that is not there now is taken as the page has it.
func TestDocumentSaysWhatHappens(t *testing.T) {
	const path = "../docs/capture.md"
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	var page strings.Builder
	page.WriteString(documentHead)
	statements, inserts, situations := documentedEntries()
	page.WriteString("\n## Statements\n\n| statement | outcome | with triggers (PostgreSQL) |\n|---|---|---|\n")
	writeEntries(t, &page, string(written), statements, true)
	page.WriteString("\n## Inserts, and where their keys go\n\n| insert | outcome | with triggers (PostgreSQL) |\n|---|---|---|\n")
	writeEntries(t, &page, string(written), inserts, true)
	page.WriteString("\n## Tables and transactions that are not so plain\n\n| what | outcome |\n|---|---|\n")
	writeEntries(t, &page, string(written), situations, false)
	page.WriteString(rawStatements())

	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewUpdate().Model((*Order)(nil)).Set("status = 'x'").Where("id = 1").Exec(ctx))
	})
	fmt.Fprintf(&page, "\nThe whole error of a refusal:\n\n```\n%s\n```\n%s", err, documentTail)

	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644))
		return
	}
	require.Equal(t, string(written), page.String(), "run go test ./outbox -run Document -update")
}

// writeEntries writes what becomes of each entry on every database, and with triggers on PostgreSQL.
func writeEntries(t *testing.T, page *strings.Builder, written string, entries []entry, triggers bool) {
	for _, e := range entries {
		outcomes := make([]string, len(documented))
		for i, d := range documented {
			outcomes[i] = e.on(t, d, written, 0, newFixture)
		}
		fmt.Fprintf(page, "| %s | %s |", e.name, together(outcomes))
		if triggers {
			fmt.Fprintf(page, " %s |", e.on(t, documented[0], written, 1, newTriggered))
		}
		page.WriteString("\n")
	}
}

// on is what becomes of an entry on one database; column is where the page has it.
func (e entry) on(
	t *testing.T, d documentedDatabase, written string, column int, newKind func(*testing.T, *bun.DB) fixture,
) (outcome string) {
	service := map[dialect.Name]string{dialect.PG: dbtest.Postgres, dialect.MySQL: dbtest.MariaDB}[d.db]
	if service != "" && os.Getenv(dbtest.Variable(service)) == "" {
		require.False(t, *update, "-update needs %s", dbtest.Variable(service))
		return writtenOutcome(written, e.name, d.name, column)
	}
	t.Run(fmt.Sprintf("%s/%s/%d", e.name, d.name, column), func(t *testing.T) {
		if said, can := e.try(newKind(t, dbtest.Open(t, d.url(t)))); can {
			outcome = said
		}
	})
	return outcome
}

// newTriggered is a fixture whose models are all captured by the database.
func newTriggered(t *testing.T, db *bun.DB) fixture {
	newFixture(t, db) // its tables
	f := fixture{t, bun.NewDB(db.DB, db.Dialect()), nil}
	var err error
	f.box, err = outbox.New(f.db, outbox.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Order](f.box, "order", outbox.Relations("Lines"), outbox.Triggers()))
	require.NoError(t, outbox.Register[Seat](f.box, "seat", outbox.Triggers()))
	require.NoError(t, outbox.Register[Note](f.box, "note", outbox.Triggers()))
	require.NoError(t, outbox.Register[File](f.box, "file", outbox.Triggers()))
	require.NoError(t, f.box.Migrate(t.Context()))
	return f
}

// together is one outcome where all databases that can have one have the same.
func together(outcomes []string) string {
	differ := false
	for _, o := range outcomes {
		differ = differ || o != outcomes[0]
	}
	if !differ {
		return outcomes[0]
	}
	var parts []string
	for i, o := range outcomes {
		if o != "" {
			parts = append(parts, documented[i].name+": "+o)
		}
	}
	return strings.Join(parts, "<br>")
}

// writtenOutcome reads from the page what together wrote.
func writtenOutcome(page, name, database string, column int) string {
	_, line, found := strings.Cut(page, "| "+name+" | ")
	if !found {
		return ""
	}
	line, _, _ = strings.Cut(line, " |\n")
	columns := strings.Split(line, " | ")
	if column >= len(columns) {
		return ""
	}
	line = columns[column]
	parts := strings.Split(line, "<br>")
	for _, d := range documented {
		if !strings.HasPrefix(parts[0], d.name+": ") {
			continue
		}
		for _, part := range parts {
			if outcome, is := strings.CutPrefix(part, database+": "); is {
				return outcome
			}
		}
		return ""
	}
	return line
}

// rawStatements documents the judge's examples.
func rawStatements() string {
	var b strings.Builder
	b.WriteString("\n## Raw statements\n\nWhat the text of a raw statement says it may do, by database (`pg`, `mariadb`, `sqlite`). One " +
		"that writes a tracked table is\nrefused. \"Denied\" is refused in a transaction whatever it writes; in brackets what it may " +
		"reach, which decides outside of one.\n\n| statement | where | verdict |\n|---|---|---|\n")
	for _, e := range outbox.JudgeExamples {
		text := strings.Join(strings.Fields(e.Statement), " ")
		if strings.Contains(text, "`") || strings.ContainsAny(e.Statement, "\x00\ufeff") || !printable(text) {
			continue // cannot stand in a table
		}
		outcome := e.Outcome
		if outcome == "" {
			outcome = "runs"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", strings.ReplaceAll(text, "|", `\|`), e.Databases, outcome)
	}
	return b.String()
}

func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' })
}
