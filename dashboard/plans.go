package dashboard

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// plan makes an action of what a link or a form says. It changes nothing.
func (d *Dashboard) plan(ctx context.Context, from url.Values) (plan, error) {
	master, err := d.config.Tables.Master(ctx)
	if err != nil {
		return plan{}, err
	}
	switch from.Get("do") {
	case "retry", "purge":
		if from.Get("id") != "" {
			return planLetter(ctx, master, from)
		}
		return planGroup(ctx, master, from)
	case "verify", "forget":
		return planReplica(ctx, master, from)
	case "purge-at":
		return d.planPurgeAt(ctx, master, from)
	case "resync", "backfill", "retry-at":
		return d.planThere(ctx, master, from)
	default:
		return plan{}, errNoAction
	}
}

func planGroup(ctx context.Context, master *admin.Master, from url.Values) (plan, error) {
	groups, err := master.Stuck(ctx)
	if err != nil {
		return plan{}, err
	}
	for _, g := range groups {
		if groupID(g) != from.Get("group") {
			continue
		}
		what := fmt.Sprintf("%s such as %s, with: %s", messages(int64(g.Count)),
			diagnosis.KeyName(g.Keys[0].Model, g.Keys[0].Key), plain(g.Error))
		switch {
		case from.Get("do") == "retry" && !g.Dead:
			return plan{
				Will: "What waits is tried again at once, not when its time comes: " + what +
					". Nothing else changes.",
				Button: "Retry now", Back: "stuck", what: "retry " + what,
				do: func(ctx context.Context) (string, error) {
					n, _, err := master.RetryStuck(ctx, g)
					return messages(int64(n)) + " tried again now", err
				},
			}, nil
		case from.Get("do") == "retry":
			return plan{
				Will: "What was given up goes back into the outbox, and relays send it: " + what +
					". Where something newer of a key was sent, its dead letter stays.",
				Button: "Retry all", Back: "stuck", what: "retry dead letters: " + what,
				do: func(ctx context.Context) (string, error) {
					n, kept, err := master.RetryStuck(ctx, g)
					return fmt.Sprintf("%s back in the outbox, %d stay, because something newer was sent",
						messages(int64(n)), kept), err
				},
			}, nil
		case g.Dead:
			return plan{
				Will: "These dead letters are deleted for good: " + what +
					". The rows of the master stay; replicas that lack them get them with the next " +
					"change, or by verification.",
				Button: "Purge", Danger: true, Back: "stuck", what: "purge dead letters: " + what,
				do: func(ctx context.Context) (string, error) {
					n, err := master.PurgeStuck(ctx, g)
					return messages(n) + " deleted", err
				},
			}, nil
		}
	}
	return plan{}, errNoAction
}

func messages(n int64) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}

func planLetter(ctx context.Context, master *admin.Master, from url.Values) (plan, error) {
	id, err := parseID(from.Get("id"))
	if err != nil {
		return plan{}, errNoAction
	}
	var letter *admin.DeadLetter
	filter := admin.DeadLetterFilter{IDs: []int64{id}}
	err = master.DeadLetters(ctx, filter, 1, func(l admin.DeadLetter) error {
		letter = &l
		return nil
	})
	if err != nil {
		return plan{}, err
	}
	if letter == nil {
		return plan{}, errNoAction
	}
	what := fmt.Sprintf("%s of revision %d of %s", letter.Signal, letter.Revision,
		diagnosis.KeyName(letter.Model, letter.Key))
	if from.Get("do") == "purge" {
		return plan{
			Will:   "This dead letter is deleted for good: " + what + ". The row of the master stays.",
			Button: "Purge", Danger: true, Back: "stuck", what: "purge dead letter: " + what,
			do: func(ctx context.Context) (string, error) {
				n, err := master.PurgeDeadLetters(ctx, filter)
				return messages(n) + " deleted", err
			},
		}, nil
	}
	return plan{
		Will: "This message goes back into the outbox, and a relay sends it: " + what +
			". Where something newer of the key was sent, it stays.",
		Button: "Retry", Back: "stuck", what: "retry dead letter: " + what,
		do: func(ctx context.Context) (outcome string, err error) {
			outcome = "it is not there any more"
			err = master.RetryDeadLetters(ctx, filter, func(r admin.RetriedDeadLetter) error {
				if outcome = "back in the outbox"; r.Err != nil {
					outcome = "it stays: " + r.Err.Error()
				}
				return nil
			})
			return outcome, err
		},
	}, nil
}

// knownReplica finds a replica, and one of its models, if one is named.
func knownReplica(
	ctx context.Context, master *admin.Master, from url.Values,
) (queue string, models []string, err error) {
	all, err := master.Replicas(ctx)
	if err != nil {
		return "", nil, err
	}
	for _, r := range all {
		if r.Queue != from.Get("queue") {
			continue
		}
		for _, m := range r.Models {
			if m.Model == from.Get("model") {
				return r.Queue, []string{m.Model}, nil
			}
		}
		if from.Get("model") == "" {
			return r.Queue, nil, nil
		}
	}
	return "", nil, errNoAction
}

func planReplica(ctx context.Context, master *admin.Master, from url.Values) (plan, error) {
	queue, models, err := knownReplica(ctx, master, from)
	if err != nil {
		return plan{}, err
	}
	if from.Get("do") == "forget" {
		return plan{
			Will: "What is known of the replica " + queue + " is deleted: reports, comparisons, " +
				"backfills. Its queue on the broker stays, and its data. If it lives it is known again " +
				"with its next report.",
			Button: "Forget", Danger: true, Back: "replicas", what: "forget the replica " + queue,
			do: func(ctx context.Context) (string, error) {
				_, err := master.ForgetReplica(ctx, queue)
				return "forgotten", err
			},
		}, nil
	}
	what := "all models"
	if len(models) > 0 {
		what = models[0]
	}
	return plan{
		Will: "All keys of " + what + " are compared with the replica " + queue + ", over the broker. " +
			"What differs is repaired, if the replica is set to.",
		Button: "Verify now", Back: "replicas", what: "verify " + what + " of the replica " + queue,
		do: func(ctx context.Context) (string, error) {
			return "asked for; how it ends is under Equal through", master.AskVerify(ctx, queue, models)
		},
	}, nil
}

// planThere plans what a replica is told, which somebody has to do who can reach it.
func (d *Dashboard) planThere(
	ctx context.Context, master *admin.Master, from url.Values,
) (plan, error) {
	queue, models, err := knownReplica(ctx, master, from)
	if err != nil {
		return plan{}, err
	}
	if len(models) == 0 {
		return plan{}, errNoAction
	}
	a, model, key := d.config.Actions, models[0], from.Get("key")
	switch do := from.Get("do"); {
	case do == "resync" && a.Resync != nil && key != "":
		name := diagnosis.KeyName(model, key)
		return plan{
			Will: "What the master has of " + name + " is sent to the replica " + queue + " alone. It " +
				"takes it if it is newer than what it has.",
			Button: "Send again", Back: "key?q=" + url.QueryEscape(model+" "+key),
			what: "send " + name + " again to the replica " + queue,
			do: func(ctx context.Context) (string, error) {
				n, err := a.Resync(ctx, queue, model, []string{key})
				if err == nil && n == 0 {
					return "the master neither has nor remembers it", nil
				}
				return "sent", err
			},
		}, nil
	case do == "backfill" && a.Backfill != nil:
		return plan{
			Will: "All rows of " + model + " are sent to the replica " + queue + ", beside what " +
				"changes. It takes what is newer than what it has.",
			Button: "Backfill", Back: "replicas", what: "backfill " + model + " to the replica " + queue,
			do: func(ctx context.Context) (string, error) {
				return "asked for; how far it is stands under Backfill", a.Backfill(ctx, queue, model)
			},
		}, nil
	case do == "retry-at" && a.RetryAt != nil:
		return plan{
			Will: "The replica " + queue + " tries its dead letters of " + model + " again. What can " +
				"be applied now is; the rest stays.",
			Button: "Retry there", Back: "stuck",
			what: "retry dead letters of " + model + " at the replica " + queue,
			do: func(ctx context.Context) (string, error) {
				return "asked for; its next report says what is left", a.RetryAt(ctx, queue, model)
			},
		}, nil
	default:
		return plan{}, errNoAction
	}
}

// planPurgeAt plans that a replica deletes what it gave up, as far as the visitor saw it.
func (d *Dashboard) planPurgeAt(
	ctx context.Context, master *admin.Master, from url.Values,
) (plan, error) {
	queue, models, err := knownReplica(ctx, master, from)
	if err != nil {
		return plan{}, err
	}
	before, err := time.Parse(time.RFC3339Nano, from.Get("before"))
	if err != nil || len(models) == 0 || d.config.Actions.PurgeAt == nil {
		return plan{}, errNoAction
	}
	model, until := models[0], before.UTC().Format("2006-01-02 15:04:05 UTC")
	return plan{
		Will: "The replica " + queue + " deletes for good all its dead letters of " + model +
			" that it gave up until " + until + ", by the clock of its database, whatever their error " +
			"is. Its rows stay as they are: the next change of a key, or a verification, brings what " +
			"they lack.",
		Button: "Purge there", Danger: true, Back: "stuck",
		what: "purge dead letters of " + model + " until " + until + " at the replica " + queue,
		do: func(ctx context.Context) (string, error) {
			return "asked for; its next report says what is left",
				d.config.Actions.PurgeAt(ctx, queue, model, before)
		},
	}, nil
}
