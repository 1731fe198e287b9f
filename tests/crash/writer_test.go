package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/examples/orders/orders"
)

// The writer's environment: its database, and where it stops to be killed, as "statement 17" or "commit 3".
const (
	writerURL  = "CQRSYNC_CRASH_WRITER"
	writerStop = "CQRSYNC_CRASH_STOP"
	// Set where the database captures by triggers.
	writerTriggers = "CQRSYNC_CRASH_TRIGGERS"
)

// journal is a row that each transaction writes beside its orders. It commits with them, so it says what did.
type journal struct {
	bun.BaseModel `bun:"table:journal"`

	Marker  string `bun:",pk"`      // the customer of every order that the transaction saved
	Saves   int64  `bun:",notnull"` // how many those were
	Deletes int64  `bun:",notnull"`
}

// write is the writer: several goroutines that create, change and delete orders until the process is killed.
func write(url, stop string) {
	err := func() error {
		db, err := database.Open(url)
		if err != nil {
			return err
		}
		at, err := parseBreakpoint(stop)
		if err != nil {
			return err
		}
		service, err := orders.New(context.Background(), db, orders.Config{Triggers: os.Getenv(writerTriggers) != ""})
		if err != nil {
			return err
		}
		db.AddQueryHook(at) //nolint:staticcheck // the service already holds this db, not a copy
		var group errgroup.Group
		for range 3 {
			group.Go(func() error {
				for n := 0; ; n++ {
					if err := transaction(context.Background(), service); err != nil {
						return err
					}
				}
			})
		}
		return group.Wait()
	}()
	fmt.Println("error:", err)
	os.Exit(1)
}

// transaction creates two orders, changes up to two and may delete one, and writes down that it did.
func transaction(ctx context.Context, service *orders.Service) error {
	marker := fmt.Sprintf("%d-%016x", os.Getpid(), rand.Uint64())
	err := service.Box().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		entry := &journal{Marker: marker}
		order := func(id int64) *orders.Order {
			return &orders.Order{ID: id, Customer: marker, Status: "new", Lines: []*orders.Line{{SKU: marker, Quantity: 1}}}
		}
		var ids []int64 // sorted: locked in one order by all
		err := tx.NewSelect().Model((*orders.Order)(nil)).Column("id").Where("id % 7 = ?", rand.IntN(7)).
			OrderExpr("id DESC").Limit(3).Scan(ctx, &ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			change := func() error { entry.Saves++; return orders.Update(ctx, tx, order(id)) }
			if i == 2 {
				change = func() error { entry.Deletes++; return orders.Delete(ctx, tx, id) }
			}
			if err := change(); err != nil {
				return err
			}
		}
		for range 2 {
			entry.Saves++
			if err := orders.Insert(ctx, tx, order(0)); err != nil {
				return err
			}
		}
		_, err = tx.NewInsert().Model(entry).Exec(ctx)
		return err
	})
	if errors.Is(err, orders.ErrNotFound) {
		return nil // another goroutine deleted it first; rolled back
	}
	return err
}

// breakpoint is a query hook that says on standard output when the process has come to where it is to be killed, and
// then either holds the goroutine there or lets it run into the kill.
type breakpoint struct {
	commits bool // count commits only
	hold    bool
	left    atomic.Int64
}

func parseBreakpoint(text string) (*breakpoint, error) {
	words := strings.Fields(text)
	if len(words) != 3 {
		return nil, fmt.Errorf("breakpoint %q: want for example \"statement 17 hold\"", text)
	}
	n, err := strconv.ParseInt(words[1], 10, 64)
	at := &breakpoint{commits: words[0] == "commit", hold: words[2] == "hold"}
	at.left.Store(n)
	return at, err
}

func (*breakpoint) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (b *breakpoint) AfterQuery(_ context.Context, event *bun.QueryEvent) {
	if b.commits && event.Query != "COMMIT" {
		return
	}
	if b.left.Add(-1) == 0 {
		fmt.Println("here")
		if b.hold {
			select {}
		}
	}
}
