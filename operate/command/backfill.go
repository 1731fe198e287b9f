package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) backfill() *cli.Command {
	return &cli.Command{
		Name: "backfill", Category: categoryMaster,
		Usage: "send all of a model to one replica, while it goes on",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "queue", Required: true, Usage: "the replica that is sent the rows"},
			modelFlag(), narrowFlag(),
			&cli.IntFlag{Name: "rate", Usage: "rows per second at most, 0 for as many as go without " +
				"delaying what changes meanwhile"},
			&cli.BoolFlag{Name: "detach", Usage: "do not wait: whoever answers replicas does it"},
			&cli.BoolFlag{Name: "cancel", Usage: "end the one that is under way; what was sent stays"},
			&cli.BoolFlag{Name: "json",
				Usage: "a JSON line each second, and at the end; with --quiet at the end only"},
			&cli.BoolFlag{Name: "progress",
				Usage: "show how far it is: a bar on a terminal, else JSON lines"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"},
				Usage: "print nothing but results and errors"},
		},
		Action: s.runBackfill,
	}
}

func (s Source) runBackfill(ctx context.Context, cmd *cli.Command) error {
	j := &job{Command: cmd, at: &position{}}
	var err error
	if j.options, j.progress, err = options(cmd); err != nil {
		return err
	}
	if cmd.Bool("cancel") && cmd.Bool("detach") {
		return exit.Mistake(errors.New("--cancel and --detach: give one of them"))
	}
	answerer, err := s.Answerer(ctx)
	if err != nil {
		return err
	}
	queue, model := cmd.String("queue"), cmd.String("model")
	if cmd.Bool("cancel") {
		was, err := answerer.CancelBackfill(ctx, queue, model)
		if err == nil && !was {
			err = exit.Wrong(fmt.Errorf("no backfill of %s for %s is under way", model, queue))
		}
		if err == nil {
			j.say("%s is not sent to %s any more", model, queue)
		}
		return err
	}
	err = answerer.OrderBackfill(ctx, converge.Backfill{
		Queue: queue, Model: model, Filter: cmd.String("filter"), Rate: cmd.Int("rate"),
	})
	if err != nil {
		return err
	}
	if cmd.Bool("detach") {
		j.say("%s is sent to %s by whoever answers replicas: see relay replicas list", model, queue)
		return nil
	}
	return j.followBackfill(ctx, answerer, queue, model)
}

// followBackfill does the work, or watches whoever does.
func (j *job) followBackfill(ctx context.Context, a *converge.Answerer, queue, model string) error {
	now, err := a.FollowBackfill(ctx, queue, model, func(now converge.BackfillProgress) {
		j.progress.of(now.Total)
		j.progress.report(now.Sent)
		if j.Bool("json") && !j.Bool("quiet") && !now.Done {
			j.printBackfill(queue, model, now)
		}
	})
	if ctx.Err() != nil {
		j.say("%d rows of %s were sent; whoever answers replicas goes on, and so does the same "+
			"command", now.Sent, model)
		return err
	}
	if err != nil {
		return err
	}
	if j.Bool("json") {
		j.progress.end()
		j.printBackfill(queue, model, now)
	} else {
		j.say("%d rows of %s are in the queue of %s", now.Sent, model, queue)
	}
	if j.at.Bad = now.Bad; now.Bad > 0 {
		return fmt.Errorf("%w; the last: %s", j.badOnes("rows cannot be sent"), now.Error)
	}
	return nil
}

// backfillObject is what backfill --json prints. Names are never changed, only added.
type backfillObject struct {
	Queue string `json:"queue"`
	Model string `json:"model"`
	Sent  int64  `json:"sent"`
	Bad   int64  `json:"bad"`
	Total *int64 `json:"total"` // about; null where nobody has counted
	Done  bool   `json:"done"`
	Error string `json:"error,omitempty"`
}

func (j *job) printBackfill(queue, model string, now converge.BackfillProgress) {
	o := backfillObject{
		Queue: queue, Model: model, Sent: now.Sent, Bad: now.Bad, Done: now.Done, Error: now.Error,
	}
	if now.Total >= 0 {
		o.Total = &now.Total
	}
	text, _ := json.Marshal(o) // strings and numbers always can be
	fmt.Fprintf(j.Root().Writer, "%s\n", text)
}
