package webhooks

import (
	"context"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/uptrace/bun"
)

// collision is how PostgreSQL, MariaDB and SQLite say that they gave a transaction up
// because of another: nothing of it happened, and it may be run again. (The text, because
// each driver has a type of its own.)
var collision = regexp.MustCompile(`\b(40001|40P01|SQLITE_BUSY)\b`)

const maxCollisions = 10

// inTx runs fn in a transaction, and again in another one where it collided. fn must have no effect
// outside of it.
func (s *Service) inTx(ctx context.Context, fn func(context.Context, bun.Tx) error) (err error) {
	for try := range maxCollisions {
		err = s.db.RunInTx(ctx, nil, fn)
		if err == nil || !collision.MatchString(err.Error()) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(time.Duration(try+1) * 10 * time.Millisecond)):
		}
	}
	return err
}
