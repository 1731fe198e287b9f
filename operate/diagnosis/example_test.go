package diagnosis_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

func ExampleRead() {
	dir, err := os.MkdirTemp("", "diagnosis")
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
	state := diagnosis.Read(context.Background(), tables, diagnosis.Config{})
	fmt.Println(state.Sentence)
	for _, t := range state.Troubles {
		fmt.Println(t.Do, "See", t.Runbook)
	}
	// Output:
	// No relay runs.
	// Start `relay run`. What waits is sent then. See docs/operations.md#no-relay
}
