package diagnosis

import (
	"context"
	"log/slog"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// Tell says in the master's database what a process waits for, until ctx ends: so everybody is told
// why nothing moves, also who looks from elsewhere. source names the process, outages what it waits
// for now. It goes beside the relay's Run; log, which may be nil, receives that it cannot be said.
func Tell(
	ctx context.Context, tables *admin.Tables, source string, outages func() []admin.Outage,
	log *slog.Logger,
) {
	if log == nil {
		log = slog.Default()
	}
	tick := time.NewTicker(admin.SaidWithin / 4)
	defer tick.Stop()
	said, failing := false, false
	for {
		now := outages()
		if said || len(now) > 0 {
			err := tell(ctx, tables, source, now)
			// a database that is away is what the relay itself says in its log
			if err != nil && !failing && ctx.Err() == nil && !away(now, "database") {
				log.Warn("cannot say to others what this relay waits for", "error", err)
			}
			failing, said = err != nil, err != nil && said || len(now) > 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if said {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				_ = tell(ctx, tables, source, nil) // else it is over after a while
			}
			return
		}
	}
}

func tell(
	ctx context.Context, tables *admin.Tables, source string, outages []admin.Outage,
) error {
	master, err := tables.Master(ctx)
	if err != nil {
		return err
	}
	return master.SayOutages(ctx, source, outages)
}

func away(outages []admin.Outage, what string) bool {
	for _, o := range outages {
		if o.What == what {
			return true
		}
	}
	return false
}
