package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestWhatWaitsIsListedRetriedAndDropped(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			db := dbtest.Open(t, url)
			require.Zero(t, invoke(t.Context(), "migrate", "--side", "replica", "--db", url).code)
			waiting := func(args ...string) result {
				return invoke(t.Context(), append([]string{"waiting", args[0], "--db", url}, args[1:]...)...)
			}
			require.Equal(t, result{stdout: "nothing waits\n"}, waiting("list"))

			tables, err := replicaTables(db)
			require.NoError(t, err)
			message := func(model, key string, since time.Time) applied.Waiting {
				return applied.Waiting{
					Applied:  applied.Applied{Key: applied.Key{Model: model, Key: key}, Revision: 3},
					Body:     []byte("{}"),
					Attempts: 2, Error: "no such shop", In: time.Hour, Since: since,
				}
			}
			now, err := tables.Now(t.Context())
			require.NoError(t, err)
			gap, awaited := message("order", "9", now), int64(2)
			gap.Error, gap.Awaits, gap.GapIn = "", &awaited, time.Minute
			require.NoError(t, tables.AddWaiting(t.Context(), db, []applied.Waiting{
				message("order", "7", now.Add(-2*time.Hour)), message("line", "\x1b[31m", now), gap,
			}))

			r := waiting("list")
			require.Zero(t, r.code, r.stderr)
			require.Regexp(t, `(?s)MODEL +KEY .*order +7 +3 .* 2 .*no such shop\n.*"\\x1b\[31m" .*`, r.stdout)
			require.Contains(t, r.stdout, "revision 2 has not come")
			r = waiting("list", "--older-than", "1h", "--json")
			var one admin.WaitingMessage
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &one))
			require.Equal(t, "7", one.Key)
			require.WithinDuration(t, now.Add(-2*time.Hour), one.Since, time.Second)
			require.WithinDuration(t, now.Add(time.Hour), one.Next, time.Minute)
			require.Contains(t, waiting("list", "--limit", "1").stdout, "there may be more: --limit 10")

			r = waiting("retry")
			require.Equal(t, exit.Usage, r.code)
			require.Contains(t, r.stderr, "choose which")
			require.Equal(t, result{stdout: "1 due now: the running replica tries them\n"},
				waiting("retry", "--model", "order", "--key", "7"))
			require.Equal(t, result{stdout: `{"due":2}` + "\n"}, waiting("retry", "--all", "--json"))
			in, some, err := tables.NextWaiting(t.Context())
			require.NoError(t, err)
			require.True(t, some)
			require.Zero(t, in)

			require.Equal(t, exit.Usage, waiting("drop").code)
			require.Equal(t, exit.Usage, waiting("drop", "--all", "--model", "order").code)
			require.Equal(t, exit.Usage, waiting("list", "--older-than=-1h").code)
			require.Equal(t, result{stdout: "2 dropped\n"}, waiting("drop", "--model", "order"))
			require.Equal(t, result{stdout: `{"dropped":1}` + "\n"}, waiting("drop", "--all", "--json"))
			require.Equal(t, result{stdout: "nothing waits\n"}, waiting("list"))
		})
	}
}
