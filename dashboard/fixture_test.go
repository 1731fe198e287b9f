package dashboard_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/dashboard"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
)

// scene is a master with a live relay, and its dashboard.
type scene struct {
	*testing.T
	db     *bun.DB
	tables *admin.Tables
	page   *dashboard.Dashboard
	log    *strings.Builder
}

func each(t *testing.T, config dashboard.Config, test func(scene)) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) { test(on(t, db, config)) })
}

// one is a scene on SQLite, for what no database has a part in.
func one(t *testing.T, config dashboard.Config) scene {
	return on(t, dbtest.Open(t, dbtest.Kinds()["sqlite"](t)), config)
}

func on(t *testing.T, db *bun.DB, config dashboard.Config) scene {
	t.Helper()
	tables, err := admin.Open(db, admin.Config{})
	require.NoError(t, err)
	_, err = tables.Migrate(t.Context(), admin.OutboxSide)
	require.NoError(t, err)
	s := scene{T: t, db: db, tables: tables, log: &strings.Builder{}}
	config.Tables = tables
	config.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	s.page, err = dashboard.Handler(config)
	require.NoError(t, err)
	s.exec("INSERT INTO outbox_relays (id, expires_at, ttl) VALUES ('one', ?, 3600000000)",
		s.at(-time.Hour))
	return s
}

func (s scene) exec(statement string, args ...any) {
	s.Helper()
	if s.db.Dialect().Name().String() == "mysql" {
		statement = strings.ReplaceAll(statement, `"`, "`")
	}
	_, err := s.db.ExecContext(s.Context(), statement, args...)
	require.NoError(s, err, statement)
}

// at is a time as the database keeps it.
func (s scene) at(ago time.Duration) any {
	if s.db.Dialect().Name().String() == "pg" {
		return time.Now().Add(-ago)
	}
	return time.Now().Add(-ago).UnixMicro()
}

// letter puts a dead letter there.
func (s scene) letter(id int64, key, err, data string) {
	s.exec(`INSERT INTO outbox_dead_letters (id, lane, model, "key", revision, "signal", pk, data, `+
		`updated_at, created_at, attempts, last_error, dead_at) VALUES (?, 0, 'order', ?, 1, 'SAVE', `+
		`'{}', ?, ?, ?, 5, ?, ?)`, id, key, data, s.at(time.Hour), s.at(time.Hour), err,
		s.at(time.Minute))
}

// reply is what came back.
type reply struct {
	StatusCode int
	Header     http.Header
	Cookie     *http.Cookie
}

// ask sends a request as a browser on the machine does, changed by change.
func (s scene) ask(method, path string, change ...func(*http.Request)) (reply, string) {
	s.Helper()
	r := httptest.NewRequestWithContext(s.Context(), method, path, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:50000", "localhost:9465"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	s.page.ServeHTTP(w, r)
	cookies, err := http.ParseSetCookie(w.Header().Get("Set-Cookie"))
	if err != nil {
		cookies = nil
	}
	return reply{w.Code, w.Header(), cookies}, w.Body.String()
}

func (s scene) get(path string, change ...func(*http.Request)) string {
	s.Helper()
	response, body := s.ask(http.MethodGet, path, change...)
	require.Equal(s, http.StatusOK, response.StatusCode, body)
	return body
}
