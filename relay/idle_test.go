package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/relay"
)

// statements counts what a relay asks its database, and notes the count at each renewal of its lease.
type statements struct {
	mu    sync.Mutex
	all   int
	marks []mark
}

type mark struct {
	at  time.Time
	all int
}

func (s *statements) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text := range strings.SplitSeq(event.Query, ";") {
		if strings.TrimSpace(text) != "" {
			s.all++
		}
	}
	if strings.Contains(event.Query, "outbox_relays") && strings.Contains(event.Query, "INSERT") {
		s.marks = append(s.marks, mark{time.Now(), s.all})
	}
	return ctx
}

func (s *statements) AfterQuery(context.Context, *bun.QueryEvent) {}

func (s *statements) renewals() []mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.marks)
}

// TestAnIdleRelayAsksSeldom, alone or among others, which each have a small share of the lanes.
func TestAnIdleRelayAsksSeldom(t *testing.T) {
	const (
		most = 8. // statements a second
		ttl  = 10 * time.Second
	)
	for name, newURL := range dbtest.Kinds() {
		for _, relays := range []int{1, 6} {
			if name == "sqlite" && relays > 1 {
				continue // one relay works, the others wait for it to leave
			}
			t.Run(fmt.Sprint(name, " ", relays), func(t *testing.T) {
				t.Parallel()
				rawURL := newURL(t)
				e := newEnv(t, dbtest.Open(t, rawURL))
				var all []*statements
				var running []*relay.Relay
				for range relays {
					db := dbtest.Open(t, rawURL)
					if name == "postgres" {
						db = bun.NewDB(db.DB, pgdialect.New()) // claims are not read past bun, and so past the hook
					}
					a := &statements{}
					all = append(all, a)
					s, err := mastertest.New(db.WithQueryHook(a))
					require.NoError(t, err)
					on := env{s, e.broker, e.logs}
					rel, _ := on.start(t, e.broker, relay.Config{LeaseTTL: ttl, PollInterval: 250 * time.Millisecond})
					running = append(running, rel)
				}
				eventually(t, func() bool {
					lanes := int64(0)
					for _, rel := range running {
						n := rel.Stats().Lanes
						if n == 0 || n > int64((64+relays-1)/relays) {
							return false
						}
						lanes += n
					}
					return lanes == 64
				}, "all have their share")
				for _, a := range all {
					settled := len(a.renewals())
					eventually(t, func() bool { return len(a.renewals()) >= settled+3 }, "renewals")
					first, last := a.renewals()[settled], a.renewals()[settled+2]
					rate := float64(last.all-first.all) / last.at.Sub(first.at).Seconds()
					t.Logf("%.1f statements/s", rate)
					require.Less(t, rate, most)
				}
			})
		}
	}
}
