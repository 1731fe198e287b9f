package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestDeadLettersOfAReplicaAreListedShownRetriedAndPurged(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			db := dbtest.Open(t, url)
			config := filepath.Join(t.TempDir(), "cqrsync.yaml")
			require.NoError(t, os.WriteFile(config, []byte("{queue: webhooks, models: {order: {table: orders}}}"), 0o600))
			_, err := db.DB.ExecContext(t.Context(), "CREATE TABLE orders (id bigint PRIMARY KEY, status varchar(20))")
			require.NoError(t, err)
			require.Zero(t, invoke(t.Context(), "migrate", "--side", "replica", "--db", url).code)

			s, err := replicaTables(db)
			require.NoError(t, err)
			m := envelope.Message{Signal: envelope.Save, Model: "order", PK: json.RawMessage("7"), Revision: 3}
			m.Data = envelope.Stamp(json.RawMessage(`{"id":7,"status":"open"}`), 3, m.Updated)
			body, err := m.Encode()
			require.NoError(t, err)
			revision := int64(3)
			for _, letter := range []applied.DeadLetter{
				{Queue: "webhooks", Model: "order", Key: "7", Revision: &revision, Body: body, Error: "no such column"},
				{Queue: "webhooks", Body: []byte("\xff\x00"), Error: "unreadable"},
			} {
				require.NoError(t, s.AddDeadLetter(t.Context(), db, letter))
			}

			letters := func(args ...string) result {
				common := []string{"dead-letters", args[0], "--side", "replica", "--db", url, "--config", config}
				return invoke(t.Context(), append(common, args[1:]...)...)
			}
			r := letters("list")
			require.Zero(t, r.code, r.stderr)
			require.Regexp(t, `(?s)ID +MODEL +KEY +REVISION.*1 +order +7 +3 .*no such column\n2 .*\? .*unreadable`, r.stdout)
			r = letters("show", "--id", "1")
			require.Zero(t, r.code, r.stderr)
			require.Contains(t, r.stdout, `\"status\":\"open\"`)
			r = letters("show", "--id", "2")
			require.Contains(t, r.stdout, `"body_base64": "/wA="`)
			require.Equal(t, result{exit.Differ, string(body) + "\n", "2: left out, it is not a JSON object in UTF-8\n" +
				"1 dead letters were left out: relay dead-letters show has them\n"}, letters("dump"))
			require.Equal(t, result{stdout: string(body) + "\n"}, letters("dump", "--model", "order"))
			require.Equal(t, exit.Usage, letters("retry").code, "choose which")

			r = letters("retry", "--all")
			require.Equal(t, exit.Differ, r.code, "one stays")
			require.Contains(t, r.stdout, "1: applied\n2: ")
			var status string
			require.NoError(t, db.DB.QueryRowContext(t.Context(), "SELECT status FROM orders WHERE id = 7").Scan(&status))
			require.Equal(t, "open", status)

			require.Equal(t, result{stdout: "1 purged\n"}, letters("purge", "--all"))
			require.Equal(t, result{stdout: "no dead letters\n"}, letters("list"))
			require.Equal(t, exit.Usage, invoke(t.Context(), "dead-letters", "list", "--side", "both", "--db", url).code)
		})
	}
}

// replicaTables are cqrsync's own in a replica's database.
func replicaTables(bunDB *bun.DB) (*applied.Tables, error) {
	d, err := db.New(bunDB, db.Names{})
	if err != nil {
		return nil, err
	}
	return applied.New(d), nil
}
