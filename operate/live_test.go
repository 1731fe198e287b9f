package operate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
)

// busy writes to random accounts 1 to n and carries the messages over, until stop is called.
func (s *service) busy(n int64) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	var all sync.WaitGroup
	for writer := range 2 {
		random := rand.New(rand.NewPCG(1, uint64(writer)))
		all.Go(func() {
			for ctx.Err() == nil {
				id, text := 1+random.Int64N(n), fmt.Sprint("live ", random.IntN(1000))
				remove := random.IntN(4) == 0
				err := s.box.RetryInTx(context.WithoutCancel(ctx), nil, func(ctx context.Context, tx bun.Tx) error {
					account := &Account{ID: id, Name: text}
					if remove {
						_, err := tx.NewDelete().Model(account).WherePK().Exec(ctx)
						return err
					}
					result, err := tx.NewUpdate().Model(account).WherePK().Exec(ctx)
					if err != nil {
						return err
					}
					if n, err := result.RowsAffected(); err != nil || n > 0 {
						return err
					}
					_, err = tx.NewInsert().Model(account).Exec(ctx)
					return err
				})
				if err != nil && ctx.Err() == nil {
					s.Log("write:", err) // two writers may insert the same key
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			carry(context.WithoutCancel(ctx), s, s.master, s.rep)
		}
	})
	return func() { cancel(); all.Wait() }
}

func TestNothingIsReportedOfWritesThatGoOn(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 60)
		s.carry()
		stop := s.busy(60)
		defer stop()
		for _, content := range []bool{false, true} {
			result, err := operate.Diff(s.Context(), s.box, s.rep, "account", io.Discard, operate.DiffOptions{
				Options: operate.Options{Grace: 3 * time.Second, PageSize: 7}, Content: content, CheckOnly: true,
			})
			require.NoError(s, err)
			require.Zero(s, result.Differing, "content %v", content)
		}
	})
}

func TestRepairsWhileWritesGoOnEndInTheMastersState(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 60)
		stop := s.busy(60)
		defer stop()
		s.exec(s.copies, "DELETE FROM account_copies WHERE id < 20")
		s.exec(s.copies, "UPDATE account_copies SET title = 'drifted' WHERE id > 50")
		s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES (900, 'extra'), (901, 'extra')")
		for range 3 {
			r, w := io.Pipe()
			go func() {
				_, err := operate.Dump(s.Context(), s.box, "account", w, operate.DumpOptions{Options: operate.Options{PageSize: 5}})
				_ = w.CloseWithError(err)
			}()
			_, err := operate.Load(s.Context(), s.rep, r, operate.LoadOptions{Options: operate.Options{PageSize: 5}})
			require.NoError(s, err)
			_, err = operate.Diff(s.Context(), s.box, s.rep, "account", io.Discard, operate.DiffOptions{
				Options: operate.Options{PageSize: 7}, Content: true,
			})
			require.NoError(s, err)
		}
		stop()
		for range 2 { // what was loaded of a key that was deleted meanwhile is settled by the deleted keys' diff
			s.carry()
			_, err := operate.Diff(s.Context(), s.box, s.rep, "account", io.Discard, operate.DiffOptions{Content: true})
			require.NoError(s, err)
		}
		s.carry()
		require.Equal(s, s.wanted(), s.copied())
	})
}

func TestAnInterruptedDumpAndLoadGoOn(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 25)
		whole := s.dump("account")
		var parts bytes.Buffer
		var after []byte
		interrupted := errors.New("interrupted")
		_, err := operate.Dump(s.Context(), s.box, "account", &parts, operate.DumpOptions{
			EndMark: true,
			Options: operate.Options{PageSize: 10},
			Resume:  operate.Resume{Reached: func(pk json.RawMessage) error { after = pk; return interrupted }},
		})
		require.ErrorIs(s, err, interrupted)
		require.Equal(s, "10", string(after))
		_, err = operate.Dump(s.Context(), s.box, "account", &parts, operate.DumpOptions{EndMark: true, Resume: operate.Resume{After: after}})
		require.NoError(s, err)
		require.Equal(s, whole, parts.String())

		reached := 0
		_, err = operate.Load(s.Context(), s.rep, bytes.NewReader([]byte(whole)), operate.LoadOptions{
			Options: operate.Options{PageSize: 10, ReachedLine: func(lines int) error { reached = lines; return interrupted }},
		})
		require.ErrorIs(s, err, interrupted)
		require.Equal(s, 10, reached)
		loaded := s.load(whole, operate.LoadOptions{Options: operate.Options{SkipLines: reached}})
		require.EqualValues(s, 15, loaded.Applied)
		require.Equal(s, s.wanted(), s.copied())
	})
}
