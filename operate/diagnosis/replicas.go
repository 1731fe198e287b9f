package diagnosis

import (
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// findReplicas finds what is wrong with replicas. Their reports travel over the broker: where that
// is away, or nobody takes them, that they are silent says nothing of them.
func (s *State) findReplicas(c Config) {
	deaf := s.has(NoRelay, BrokerAway, BrokerRefuses, BrokerFull)
	for _, r := range s.Replicas {
		if r.Silent && !deaf {
			s.add(Trouble{Kind: ReplicaSilent, Queue: r.Queue, Since: r.Reported,
				What: said(ReplicaSilent, 0, printable(r.Queue), lasting(s.At.Sub(r.Reported)))})
		}
		if lag, late := lateness(r, c); late && !r.Silent && !deaf {
			s.add(Trouble{Kind: ReplicaLate, Queue: r.Queue, Since: s.At.Add(-lag),
				What: said(ReplicaLate, 0, printable(r.Queue), lasting(lag)), Why: working(r)})
		}
		if r.Vanished != nil && !provenSince(r, *r.Vanished) {
			s.add(Trouble{Kind: QueueVanished, Queue: r.Queue, Since: *r.Vanished,
				What: said(QueueVanished, 0, printable(r.Queue), lasting(s.At.Sub(*r.Vanished))),
				Why:  "it was made again, without what was in it, and is not proven equal since"})
		}
		for _, m := range r.Models {
			s.findModel(r, m, c)
		}
	}
}

func lateness(r admin.KnownReplica, c Config) (time.Duration, bool) {
	if r.LagSeconds == nil {
		return 0, false
	}
	lag := time.Duration(*r.LagSeconds * float64(time.Second))
	return lag, lag >= c.Late
}

// working says what a replica does.
func working(r admin.KnownReplica) string {
	rate := 0.0
	for _, m := range r.Models {
		rate += m.AppliedPerSecond
	}
	if rate == 0 {
		return "it applies nothing"
	}
	return fmt.Sprintf("it applies %.3g messages a second", rate)
}

func provenSince(r admin.KnownReplica, t time.Time) bool {
	for _, m := range r.Models {
		if m.EqualThrough == nil || m.EqualThrough.Before(t) {
			return false
		}
	}
	return true
}

func (s *State) findModel(r admin.KnownReplica, m admin.ReplicaModel, c Config) {
	about := func(k Kind, what, why string, since time.Time) {
		s.add(Trouble{Kind: k, Queue: r.Queue, Model: m.Model, What: what, Why: why, Since: since})
	}
	queue, model := theReplica(r.Queue), modelName(m.Model)
	s.findStuckAt(r, m, c, about)
	if b := m.Backfill; b != nil {
		done := b.State == admin.BackfillDone
		switch {
		case b.State == admin.BackfillWaiting && s.At.Sub(b.Moved) > time.Minute:
			about(BackfillStopped, said(BackfillStopped, 0, model, printable(r.Queue),
				lasting(s.At.Sub(b.Moved)), counted(b.Sent, "row", "rows")), b.Error, b.Moved)
		case done && b.Bad > 0 && (m.EqualThrough == nil || m.EqualThrough.Before(*b.Finished)):
			about(BackfillLacks, said(BackfillLacks, 0, model, printable(r.Queue),
				counted(b.Bad, "row", "rows")), b.Error, *b.Finished)
		}
	}
	switch v := m.Verification; {
	case v == nil:
	case v.Found["ahead"] > 0:
		about(WentBack, said(WentBack, 0, queue, counted(v.Found["ahead"], "key", "keys"), model),
			"the master's database went back to an earlier state", v.Ended)
	case v.Outcome == admin.VerifiedDiffers:
		about(ReplicaDiffers, said(ReplicaDiffers, 0, queue, model), found(v.Found), v.Ended)
	case v.Outcome == admin.VerifiedUnproven && !r.Silent:
		about(ReplicaUncertain, said(ReplicaUncertain, 0, model, queue), "", v.Ended)
	}
}

// findStuckAt finds what a replica did not apply.
func (s *State) findStuckAt(
	r admin.KnownReplica, m admin.ReplicaModel, c Config,
	about func(k Kind, what, why string, since time.Time),
) {
	queue := theReplica(r.Queue)
	left := m.DeadLetters
	for _, g := range m.Stuck {
		lasts := s.At.Sub(g.First)
		name := modelName(m.Model)
		if len(g.Keys) > 0 && g.Keys[0] != "" {
			name = KeyName(m.Model, g.Keys[0])
		}
		switch {
		case g.Dead && g.Count == 1:
			about(ReplicaDeadLetters, said(ReplicaDeadLetters, 0, queue, name, lasting(lasts)),
				g.Error, g.First)
		case g.Dead:
			about(ReplicaDeadLetters, said(ReplicaDeadLetters, 1, queue, g.Count, name,
				lasting(lasts)), g.Error, g.First)
		case lasts < max(c.Patience, c.Late):
		default:
			about(ReplicaWaits, said(ReplicaWaits, 0, counted(int64(g.Count), "message waits",
				"messages wait"), queue, name, lasting(lasts)), g.Error, g.First)
		}
		if g.Dead {
			left -= int64(g.Count)
		}
	}
	if left > 0 {
		about(ReplicaDeadLetters, said(ReplicaDeadLetters, 2, queue, counted(left, "message",
			"messages"), modelName(m.Model)), "", time.Time{})
	}
}

// theReplica names a replica; one that asks itself may not know its queue.
func theReplica(queue string) string {
	if queue == "" {
		return "replica"
	}
	return "replica " + printable(queue)
}

// modelName names a model; that of a message which cannot be read is unknown.
func modelName(model string) string {
	if model == "" {
		return "an unknown model"
	}
	return printable(model)
}
