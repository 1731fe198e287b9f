package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestLanes(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			s := mastertest.Open(t, dbtest.Open(t, url))
			_, err := s.Balance(t.Context(), "relay-1", time.Minute)
			require.NoError(t, err)

			r := invoke(t.Context(), "lanes", "--db", url)
			require.Equal(t, exit.Done, r.code, r.stderr)
			lines := strings.Split(r.stdout, "\n")
			require.Len(t, lines, 3+1+64+1)
			require.Regexp(t, `^LANES +LEASE +OWNER$`, lines[0])
			require.Regexp(t, `^64 +runs +relay-1$`, lines[1])
			require.Regexp(t, `^LANE +EPOCH +EXPIRES +OWNER$`, lines[3])
			require.Regexp(t, `^0 +1 +in \S+ +relay-1$`, lines[4])

			r = invoke(t.Context(), "lanes", "set", "--db", url, "--timeout", "2s", "8")
			require.Equal(t, exit.Failed, r.code, r.stderr)
			require.Contains(t, r.stderr, "waiting for the relays to give back 64 lanes\n")
			require.Contains(t, r.stderr, "error: set 8 lanes: 2s (--timeout) are over while waiting for the relays")

			require.NoError(t, s.LeaveAll(t.Context(), "relay-1"))
			require.Equal(t, result{stdout: "there are 8 lanes\n"}, invoke(t.Context(), "lanes", "set", "--db", url, "8"))
			r = invoke(t.Context(), "lanes", "--db", url, "--json")
			require.Equal(t, 8, strings.Count(r.stdout, "\n"))
			var lane map[string]any
			require.NoError(t, json.Unmarshal([]byte(strings.SplitAfter(r.stdout, "\n")[0]), &lane))
			require.Equal(t, map[string]any{"lane": 64.0, "epoch": 2.0, "expires_seconds": 0.0}, lane)
			require.Contains(t, invoke(t.Context(), "status", "--db", url).stdout, "lanes owned         0 of 8\n")
		})
	}
}

func TestTheNumberOfLanesMustBeGiven(t *testing.T) {
	for _, args := range []string{"", "0", "1025", "many", "8 9"} {
		r := invoke(t.Context(), append([]string{"lanes", "set", "--db", dbtest.SQLiteURL(t)}, strings.Fields(args)...)...)
		require.Equal(t, exit.Usage, r.code, args)
		require.Contains(t, r.stderr, "give the number of lanes: 1 to 1024")
	}
}
