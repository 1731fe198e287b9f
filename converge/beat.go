package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/transport"
)

// beat sends a heartbeat to each replica whose turn it is.
func (a *Answerer) beat(ctx context.Context) error {
	replicas, _, err := a.registry.Replicas(ctx)
	if err != nil {
		return err
	}
	verifications, err := a.registry.Verifications(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range replicas {
		models := a.own(r.Models)
		if len(models) == 0 {
			continue
		}
		mine, err := a.registry.Beat(ctx, r.Queue, a.config.Pace-a.config.Pace/10)
		if err == nil && mine {
			err = a.sendHeartbeat(ctx, r.Queue, models, verifications)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sendHeartbeat says to a queue how far it has everything. What it says must be true when it is
// published: so the outbox is asked before.
func (a *Answerer) sendHeartbeat(
	ctx context.Context, queue string, models []string, verifications []registry.Verification,
) error {
	sent, through, err := a.outbox.Through(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(heartbeat{
		head: head{Version: version, Kind: kindHeartbeat}, Models: models, Sent: sent, Through: through,
		Verified: verifiedOf(verifications, queue, models),
	})
	if err != nil {
		return fmt.Errorf("write a heartbeat: %w", err)
	}
	return a.tell(ctx, queue, models[0], kindHeartbeat, body)
}

// tell says something to a replica alone.
func (a *Answerer) tell(ctx context.Context, queue, model string, k kind, body []byte) error {
	m, err := envelop(k, body)
	if err != nil {
		return err
	}
	if err := publish(ctx, a.publisher, transport.DirectTopic(queue, model), m); err != nil {
		return fmt.Errorf("say something to the replica %q: %w", queue, err)
	}
	return nil
}

// KeepQueues makes the queues of the known replicas, and of those in AnswererConfig.Queues, where
// they are not there. It is relay.Config.Before: a message is published when every queue is there
// that should have it. A known queue that has vanished is noted, logged and made again.
func (a *Answerer) KeepQueues(ctx context.Context) error {
	err := a.keepQueues(ctx)
	if ctx.Err() == nil {
		a.missing.Store(&err)
	}
	return err
}

// Ready returns why a replica's queue could not be made or looked at, nil where all are there.
func (a *Answerer) Ready() error {
	if err := a.missing.Load(); err != nil {
		return *err
	}
	return nil
}

func (a *Answerer) keepQueues(ctx context.Context) error {
	replicas, _, err := a.registry.Replicas(ctx)
	if err != nil {
		return err
	}
	wanted := map[string][]string{}
	known := map[string]bool{}
	for name, models := range a.config.Queues {
		if len(models) == 0 {
			models = a.models
		}
		wanted[name] = models
	}
	for _, r := range replicas {
		if own := a.own(r.Models); len(own) > 0 {
			wanted[r.Queue], known[r.Queue] = own, true
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if err := a.keepQueue(ctx, name, wanted[name], known[name]); err != nil {
			errs = append(errs, fmt.Errorf("the queue of the replica %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// keepQueue makes a queue. known says that its replica has reported, so that it was there.
func (a *Answerer) keepQueue(
	ctx context.Context, name string, models []string, known bool,
) (err error) {
	q, err := a.broker.Queue(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	var there bool
	if known {
		// Were it looked for and then kept, one that vanishes in between would be made unnoticed.
		err = q.BindQueue(ctx, models)
		there = !errors.Is(err, transport.ErrNoQueue)
	} else if there, err = q.HasQueue(ctx); err != nil {
		return err
	}
	if known && !there {
		a.counts.vanished.Add(1)
		a.log.Error("the queue of a replica has vanished, and what was in it is lost: it is made again; "+
			"compare the replica with relay diff", "queue", name)
		if err := a.registry.NoteVanished(ctx, name); err != nil {
			return err
		}
	}
	if !known || !there {
		err = q.KeepQueue(ctx, models)
	}
	if err != nil && there && !errors.Is(err, transport.ErrUnavailable) {
		// Its replica made it, and this user may not bind it. Nothing is lost by going on.
		a.say(ctx, "the queue of the replica "+name, err)
		return nil
	}
	return err
}
