package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
)

func (s Source) forgetDeleted() *cli.Command {
	return &cli.Command{
		Name:  "forget-deleted",
		Usage: "make the master's ledger forget keys that were deleted long ago",
		Description: "The ledger keeps each deleted key, so that one that is created again " +
			"continues its revision. What is forgotten gives that up: the key begins again at " +
			"revision 0, and a replica that still remembers the deletion (KeepTombstones, 90 " +
			"days by default), or finds a message of before in its queue or dead letters, " +
			"ignores the new row, or deletes it. So --older-than is at least 2160h (90 days), " +
			"and must be longer than the KeepTombstones of every replica and than any message " +
			"can be on its way. Where keys are never used again, nothing is given up.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "the model"},
			&cli.DurationFlag{Name: "older-than", Usage: "keys deleted so long ago, as in 4320h"},
			jsonFlag("one JSON object"),
		},
		Action: s.runForgetDeleted,
	}
}

func (s Source) runForgetDeleted(ctx context.Context, cmd *cli.Command) error {
	model, age := cmd.String("model"), cmd.Duration("older-than")
	var modelErr, ageErr error
	if model == "" {
		modelErr = of("--model", errors.New("not set, want the model's CQRS id"))
	}
	if age < admin.LeastForgotten {
		ageErr = of("--older-than", fmt.Errorf("%s, want %s or more, and more than every "+
			"replica's KeepTombstones: replicas that remember the deletion ignore a key that "+
			"begins again", duration(age), duration(admin.LeastForgotten)))
	}
	m, err := s.master(ctx, cmd, modelErr, ageErr)
	if err != nil {
		return err
	}
	n, err := m.ForgetDeleted(ctx, model, age)
	if cmd.Bool("json") {
		return errors.Join(err, printJSON(cmd, map[string]int64{"forgotten": n}))
	}
	fmt.Fprintf(stdout(cmd), "%d deleted keys of %s forgotten\n", n, model)
	return err
}

func (s Source) incarnation() *cli.Command {
	return &cli.Command{
		Name: "incarnation",
		Usage: "show by which name replicas know the course of the master's history, or draw " +
			"another one",
		Flags:  []cli.Flag{jsonFlag("one JSON object instead of lines")},
		Action: s.incarnationBy((*admin.Master).Incarnation),
		Commands: []*cli.Command{{
			Name: "new",
			Usage: "draw another one, after the master's database was restored in a way that " +
				"nobody could notice",
			Description: "Relays draw one by themselves after a failover, where a dump was " +
				"restored, and where the database went back while they were at work. Of a copied " +
				"SQLite file, and of a snapshot of disks, nothing tells. Run this before the " +
				"relay starts.",
			Flags: []cli.Flag{&cli.StringFlag{
				Name: "reason", Usage: "why, for status",
				Value: "an operator said that the database was restored",
			}},
			Action: func(ctx context.Context, cmd *cli.Command) error {
				return s.incarnationBy(func(m *admin.Master, ctx context.Context) (admin.Incarnation, error) {
					return m.DrawIncarnation(ctx, cmd.String("reason"))
				})(ctx, cmd)
			},
		}},
	}
}

// incarnationBy is the action that prints what get returns.
func (s Source) incarnationBy(
	get func(*admin.Master, context.Context) (admin.Incarnation, error),
) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		m, err := s.master(ctx, cmd)
		if err != nil {
			return err
		}
		i, err := get(m, ctx)
		if err != nil {
			return err
		}
		if cmd.Bool("json") {
			return printJSON(cmd, i)
		}
		fmt.Fprintf(stdout(cmd), "%s since %s: %s\n",
			i.ID, i.Drawn.Format(time.RFC3339), oneLine(i.Reason))
		return nil
	}
}
