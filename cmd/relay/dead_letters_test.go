package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// deadLetters makes an outbox with a dead letter for every key; a second revision of the superseded
// ones was sent.
func deadLetters(t *testing.T, url string, keys, superseded []string) {
	t.Helper()
	ctx := t.Context()
	db := dbtest.Open(t, url)
	s := mastertest.Open(t, db)
	write := func(key string) {
		require.NoError(t, db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			k := queue.Key{Model: "order", Key: key}
			drawn, err := s.Lock(ctx, tx, []ledger.Change{{Key: k}})
			if err != nil {
				return err
			}
			return s.Append(ctx, tx, []queue.Message{{
				Model: "order", Key: key, Revision: drawn[k].Revision, After: drawn[k].After, Signal: "SAVE",
				PK: json.RawMessage(`"` + key + `"`), Data: json.RawMessage(`{"status":"new"}`), Updated: time.Now(),
				Headers: map[string]string{"traceparent": "00-ab"},
			}}, nil)
		}))
	}
	owned, err := s.Balance(ctx, "test", time.Minute)
	require.NoError(t, err)
	for _, key := range keys {
		write(key)
	}
	unsent, err := s.Unsent(ctx, 0)
	require.NoError(t, err)
	var done queue.Outcome
	for _, m := range unsent {
		done.Dead = append(done.Dead, queue.Failure{Claimed: &queue.Claimed{Message: m}, Error: "too\nlarge"})
	}
	require.NoError(t, s.Finish(ctx, "test", owned.Lanes, done))
	for _, key := range superseded {
		write(key)
	}
	require.NoError(t, s.LeaveAll(ctx, "test"))
}

func TestDeadLetters(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			relay := func(args ...string) result {
				t.Helper()
				return invoke(t.Context(), append([]string{"dead-letters", args[0], "--db", url}, args[1:]...)...)
			}
			deadLetters(t, url, []string{"1", "2", "3"}, []string{"2"})

			r := relay("list")
			require.Equal(t, exit.Done, r.code, r.stderr)
			lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
			require.Len(t, lines, 4)
			require.Regexp(t, `^ID +MODEL +KEY +REVISION +SIGNAL +GIVEN UP +ATTEMPTS +ERROR$`, lines[0])
			require.Regexp(t, `^\d+ +order +1 +0 +SAVE +20\S+Z +1 +"too\\nlarge"$`, lines[1])
			r = relay("list", "--json", "--key", "2")
			var letter map[string]any
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &letter), r.stdout)
			require.Equal(t, "too\nlarge", letter["error"])
			require.NotContains(t, letter, "data")
			id := fmt.Sprint(int64(letter["id"].(float64)))
			require.Regexp(t, `there may be more: --after \d+\n$`, relay("list", "--limit", "1").stdout)
			require.Equal(t, result{stdout: "no dead letters\n"}, relay("list", "--model", "customer"))

			r = relay("show", "--id", id, "--json")
			require.Equal(t, exit.Done, r.code, r.stderr)
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &letter))
			require.Equal(t, map[string]any{"status": "new"}, letter["data"])
			r = relay("show", "--id", id)
			require.Contains(t, r.stdout, "SAVE of order 2, revision 0\n")
			require.Contains(t, r.stdout, `"traceparent": "00-ab"`)
			require.Equal(t, result{exit.Differ, "", "1 of 1 ids are no dead letters\n"}, relay("show", "--id", "999999"))

			r = relay("retry", "--all", "--json")
			require.Equal(t, exit.Differ, r.code, r.stderr)
			require.Equal(t, 2, strings.Count(r.stdout, `"retried":true}`))
			require.Regexp(t, `"key":"2","revision":0,"retried":false,"reason":"[^"]*revision 1 of its key`, r.stdout)
			require.Contains(t, r.stderr, "1 dead letters stay")
			r = relay("retry", "--all")
			require.Equal(t, exit.Differ, r.code)
			require.Regexp(t, regexp.MustCompile(`(?s)^order 2, revision 0: .*\n0 sent again, 1 superseded\n$`), r.stdout)
			require.Contains(t, invoke(t.Context(), "status", "--db", url).stdout, "unsent messages     3\n")

			require.Equal(t, result{stdout: "0 purged\n"}, relay("purge", "--older-than", "1h"))
			require.Equal(t, result{stdout: "{\"purged\":1}\n"}, relay("purge", "--id", id, "--json"))
			require.Equal(t, result{exit.Differ, "0 sent again, 0 superseded\n", "no dead letter was found\n"}, relay("retry", "--all"))
		})
	}
}

func TestDeadLettersMustBeChosen(t *testing.T) {
	for line, want := range map[string]string{
		"dead-letters": "use dead-letters list, show, dump, retry or purge", "dead-letters show": "--id: not set",
		"dead-letters retry": "choose which", "dead-letters purge": "choose which",
		"dead-letters purge --all --model order":  "choose which",
		"dead-letters purge --older-than -1h":     "--older-than: -1h, want a positive time",
		"dead-letters list --limit -1":            "--limit: -1, want 0 or more",
		"dead-letters list --nonsense":            "not defined",
		"dead-letters retry --id one":             `--id: "one", want a whole number`,
		"dead-letters list --db sqlite://x.db 17": "unexpected argument",
	} {
		t.Run(line, func(t *testing.T) {
			t.Chdir(t.TempDir())
			r := invoke(t.Context(), strings.Fields(line)...)
			require.Equal(t, exit.Usage, r.code, r.stderr)
			require.Contains(t, r.stderr, want)
			require.Empty(t, r.stdout)
		})
	}
}
