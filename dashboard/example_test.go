package dashboard_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"

	"github.com/cqrsync/cqrsync/dashboard"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
)

// A service mounts the dashboard beside its own pages, and says who may look.
func ExampleHandler() {
	dir, err := os.MkdirTemp("", "dashboard")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := database.Open("sqlite://" + filepath.Join(dir, "orders.db"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = db.Close() }()
	tables, err := admin.Open(db, admin.Config{})
	if err != nil {
		panic(err)
	}
	if _, err := tables.Migrate(context.Background(), admin.OutboxSide); err != nil {
		panic(err)
	}
	page, err := dashboard.Handler(dashboard.Config{
		Tables: tables,
		Allow:  func(*http.Request) (who string, ok bool) { return "ada", true },
	})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/cqrsync/", http.StripPrefix("/cqrsync", page))

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/cqrsync/", nil))
	fmt.Println(regexp.MustCompile(`<span id="words">(.*)</span>`).FindStringSubmatch(answer.Body.String())[1])
	// Output: No relay runs.
}
