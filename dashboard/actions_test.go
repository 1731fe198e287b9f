package dashboard_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/dashboard"
)

var acting = dashboard.Config{Actions: &dashboard.Actions{}}

// link is where the button of a page leads.
func link(s scene, page, text string) string {
	s.Helper()
	found := regexp.MustCompile(`href="([^"]*)">` + regexp.QuoteMeta(text)).FindStringSubmatch(page)
	require.NotNil(s, found, "%q is not offered: %s", text, page)
	return "/" + strings.ReplaceAll(found[1], "&amp;", "&")
}

// act goes the way of a visitor: the page, what will happen, and the button there. It returns the
// note on the page that follows.
func (s scene) act(from, text string) (will, note string) {
	s.Helper()
	confirm := s.get(link(s, s.get(from), text))
	form := url.Values{}
	for _, f := range regexp.MustCompile(`name="(\w+)" value="([^"]*)"`).FindAllStringSubmatch(confirm, -1) {
		form.Set(f[1], strings.NewReplacer("&#43;", "+", "&amp;", "&").Replace(f[2]))
	}
	reply, body := s.post("/do", form)
	require.Equal(s, http.StatusSeeOther, reply.StatusCode, body)
	page := s.get("/" + reply.Header.Get("Location"))
	found := regexp.MustCompile(`<p class="note[^>]*>([^<]*)`).FindStringSubmatch(page)
	require.NotNil(s, found, page)
	return confirm, found[1]
}

func (s scene) post(path string, form url.Values, change ...func(*http.Request)) (reply, string) {
	return s.ask(http.MethodPost, path, append(change, func(r *http.Request) {
		body := form.Encode()
		r.Body, r.ContentLength = readCloser{strings.NewReader(body)}, int64(len(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	})...)
}

func (s scene) count(table string) (n int) {
	s.Helper()
	require.NoError(s, s.db.NewSelect().Table(table).ColumnExpr("count(*)").Scan(s.Context(), &n))
	return n
}

func TestDeadLettersAreRetriedAndPurgedByGroup(t *testing.T) {
	each(t, acting, func(s scene) {
		for id, key := range []string{"7", "8", "9"} {
			s.exec(`INSERT INTO outbox_revisions (model, "key", revision, produced, deleted, updated_at) `+
				"VALUES ('order', ?, 1, 1, ?, ?)", key, false, s.at(time.Minute))
			s.letter(int64(id+1), key, "message "+key+" is too large", "{}")
		}
		s.letter(4, "10", "something else", "{}")
		will, note := s.act("/stuck", "Retry all")
		require.Contains(s, will, "go")
		require.Contains(s, note, "3 messages back in the outbox")
		require.Equal(s, 1, s.count("outbox_dead_letters"))
		require.Equal(s, 3, s.count("outbox_messages"))
		will, note = s.act("/stuck", "Purge")
		require.Contains(s, will, "deleted for good")
		require.Contains(s, note, "1 message deleted")
		require.Zero(s, s.count("outbox_dead_letters"))

		audit := s.get("/audit")
		require.Contains(s, audit, "somebody at the machine")
		require.Contains(s, audit, "purge dead letters: 1 message such as order 10")
		require.Contains(s, s.log.String(), "somebody acted by the dashboard")
	})
}

func TestOneLetterIsRetriedUnlessSomethingNewerWasSent(t *testing.T) {
	each(t, acting, func(s scene) {
		s.exec(`INSERT INTO outbox_revisions (model, "key", revision, produced, deleted, updated_at) `+
			"VALUES ('order', '7', 2, 2, ?, ?)", false, s.at(time.Minute))
		s.letter(1, "7", "too large", "{}")
		_, note := s.act("/letter?id=1", "Retry it")
		require.Contains(s, note, "it stays: ")
		require.Equal(s, 1, s.count("outbox_dead_letters"))
	})
}

func TestWhatWaitsIsTriedAtOnce(t *testing.T) {
	each(t, acting, func(s scene) {
		s.exec(`INSERT INTO outbox_retries (model, "key", attempts, next_attempt_at, last_error, since) `+
			"VALUES ('order', '17', 4, ?, 'full', ?)", s.at(-time.Hour), s.at(time.Hour))
		_, note := s.act("/", "Retry")
		require.Contains(s, note, "1 message tried again now")
		master, err := s.tables.Master(s.Context())
		require.NoError(s, err)
		k, err := master.Key(s.Context(), "order", "17", 0)
		require.NoError(s, err)
		require.False(s, k.Retry.Next.After(k.At))
		require.NotContains(s, s.get("/stuck"), "Purge", "it is the newest state of its key")
	})
}

func (s scene) replica(queue string, reported time.Duration) {
	s.exec("INSERT INTO outbox_replicas (queue, models, first_at, reported_at) VALUES (?, ?, ?, ?)",
		queue, `["order"]`, s.at(time.Hour), s.at(reported))
	s.exec("INSERT INTO outbox_replica_instances (queue, instance, pace, reported_at, report) "+
		"VALUES (?, 'one', 10000000, ?, ?)", queue, s.at(reported), `{"library":"v1",
		"models":[{"id":"order","dead_letters":1,"verify":{"grace":1},"stuck":[{"dead":true,"count":1,
		"error":"no room","first":"2026-01-01T00:00:00Z","last":"2026-01-01T00:00:00Z","keys":["9"]}]}]}`)
}

func TestReplicasAreVerifiedForgottenAndTold(t *testing.T) {
	var told []string
	config := dashboard.Config{Actions: &dashboard.Actions{
		Resync: func(_ context.Context, queue, model string, keys []string) (int, error) {
			told = append(told, "resync "+queue+" "+model+" "+keys[0])
			return 1, nil
		},
		Backfill: func(_ context.Context, queue, model string) error {
			told = append(told, "backfill "+queue+" "+model)
			return errors.New("the broker is away")
		},
		RetryAt: func(_ context.Context, queue, model string) error {
			told = append(told, "retry "+queue+" "+model)
			return nil
		},
	}}
	s := one(t, config)
	s.replica("st&ats", 5*time.Second)
	s.replica("gone", time.Hour)
	_, note := s.act("/replicas", "Verify all models of gone")
	require.Contains(s, note, "failed: the replica &#34;gone&#34; is silent")
	_, note = s.act("/replicas", "Verify now")
	require.Contains(s, note, "silent", "the first row is that of gone")
	_, note = s.act("/replicas", "Forget gone")
	require.Contains(s, note, "forgotten")
	require.Equal(s, 1, s.count("outbox_replicas"))
	_, note = s.act("/replicas", "Verify now")
	require.Contains(s, note, "asked for")
	_, note = s.act("/replicas", "Backfill")
	require.Contains(s, note, "failed: the broker is away")
	_, note = s.act("/stuck", "Retry there")
	require.Contains(s, note, "asked for")
	require.Equal(s, []string{"backfill st&ats order", "retry st&ats order"}, told)
	master, err := s.tables.Master(s.Context())
	require.NoError(s, err)
	actions, err := master.Actions(s.Context(), 100)
	require.NoError(s, err)
	require.Len(s, actions, 6)
	require.Equal(s, "retry dead letters of order at the replica st&ats", actions[0].Action)
}

func TestNothingIsDoneByGetOrByOthers(t *testing.T) {
	s := one(t, acting)
	s.letter(1, "7", "too large", "{}")
	form := url.Values{"do": {"purge"}, "id": {"1"}}
	response, _ := s.ask(http.MethodGet, "/do?"+form.Encode())
	require.Equal(s, http.StatusMethodNotAllowed, response.StatusCode)
	s.get("/confirm?" + form.Encode())
	response, _ = s.post("/do", form, with("Sec-Fetch-Site", "cross-site"))
	require.Equal(s, http.StatusForbidden, response.StatusCode)
	response, _ = s.post("/do", form, from("10.0.0.7:1", "localhost"))
	require.Equal(s, http.StatusForbidden, response.StatusCode)
	for _, bad := range []url.Values{
		{}, {"do": {"drop"}}, {"do": {"purge"}, "id": {"99"}}, {"do": {"purge"}, "group": {"x"}},
		{"do": {"verify"}, "queue": {"none"}}, {"do": {"backfill"}, "queue": {"none"}, "model": {"order"}},
	} {
		response, _ = s.post("/do", bad)
		require.Equal(s, http.StatusNotFound, response.StatusCode, bad)
	}
	require.Equal(s, 1, s.count("outbox_dead_letters"))
	require.Zero(s, s.count("outbox_actions"))
	response, _ = s.post("/do", form)
	require.Equal(s, http.StatusSeeOther, response.StatusCode)
	require.Zero(s, s.count("outbox_dead_letters"))
}

// Where the audit line cannot be written, nothing is done.
func TestNothingIsDoneWithoutItsAuditLine(t *testing.T) {
	s := one(t, acting)
	s.letter(1, "7", "too large", "{}")
	s.exec("DROP TABLE outbox_actions")
	response, _ := s.post("/do", url.Values{"do": {"purge"}, "id": {"1"}})
	require.Equal(s, http.StatusInternalServerError, response.StatusCode)
	require.Equal(s, 1, s.count("outbox_dead_letters"))
}
