package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// Status begins with the sentence that the dashboard has, and what to do.
func TestStatusSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	for kind, newURL := range dbtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			url := newURL(t)
			flat := func(text string) string { return strings.Join(strings.Fields(text), " ") }
			r := invoke(t.Context(), "status", "--db", url)
			require.NotEqual(t, exit.Done, r.code)
			if kind != "sqlite" { // a file that is not there is a usage error
				require.Contains(t, flat(r.stdout), diagnosis.NotMigrated.Do())
			}
			require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", url).code)
			appendOrder(t, url)
			r = invoke(t.Context(), "status", "--db", url)
			require.Equal(t, exit.Done, r.code, r.stderr)
			require.Contains(t, flat(r.stdout), diagnosis.NoRelay.Do())
			require.Contains(t, r.stdout, "docs/operations.md#no-relay")
			require.Contains(t, r.stdout, "unsent messages     1\n")

			var state struct {
				Sentence string              `json:"sentence"`
				Troubles []diagnosis.Trouble `json:"troubles"`
				Stuck    []any               `json:"stuck"`
				Outages  []any               `json:"outages"`
			}
			require.NoError(t, json.Unmarshal([]byte(invoke(t.Context(), "status", "--json", "--db", url).stdout), &state))
			require.Equal(t, diagnosis.NoRelay, state.Troubles[0].Kind)
			require.Contains(t, state.Sentence, state.Troubles[0].What)
			require.NotNil(t, state.Stuck)
			require.NotNil(t, state.Outages)
		})
	}
}

func TestStatusIsWatchedUntilTheEnd(t *testing.T) {
	url := dbtest.SQLiteURL(t)
	require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", url).code)
	ctx, stop := context.WithCancel(t.Context())
	var stdout output
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"relay", "status", "--watch", "1s", "--db", url}, &stdout, io.Discard)
	}()
	require.Eventually(t, func() bool { return strings.Count(stdout.String(), "unsent messages") > 1 },
		time.Minute, 20*time.Millisecond)
	stop()
	require.Equal(t, exit.Done, <-ended)
}

func TestAKeyIsFoundOnTheCommandLine(t *testing.T) {
	url := dbtest.SQLiteURL(t)
	require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", url).code)
	appendOrder(t, url)
	for _, args := range [][]string{{"order", "1"}, {"order 1"}, {"order/1"}} {
		r := invoke(t.Context(), append([]string{"key", "--wait", "0", "--db", url}, args...)...)
		require.Contains(t, r.stdout, "order 1", args)
		require.Contains(t, r.stdout, "master", args)
	}
	r := invoke(t.Context(), "key", "--wait", "0", "--json", "--db", url, "order", "1")
	var found struct {
		Sentence string `json:"sentence"`
		Key      struct {
			Model string `json:"model"`
		} `json:"key"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &found), r.stdout)
	require.Contains(t, found.Sentence, "order 1")
	require.Equal(t, "order", found.Key.Model)
	r = invoke(t.Context(), "key", "--wait", "-1s", "--db", url, "order")
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, "--wait: -1s")
}
