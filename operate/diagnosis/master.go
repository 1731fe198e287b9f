package diagnosis

import (
	"fmt"
	"regexp"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// find finds what is wrong.
func (s *State) find(c Config) {
	if s.Master.Relays == 0 {
		t := Trouble{Kind: NoRelay, What: said(NoRelay, 0)}
		if s.Master.Unsent > 0 {
			t.Why, t.Since = s.waiting(), s.At.Add(-s.Master.OldestAge)
		}
		s.add(t)
	}
	s.findOutages(c)
	s.findStuck(c)
	s.findStalled(c)
	s.findReplicas(c)
}

// waiting says what waits in the outbox.
func (s *State) waiting() string {
	m := s.Master
	if m.Unsent == 0 {
		return "nothing waits"
	}
	number := counted(m.Unsent, "message waits", "messages wait")
	if m.UnsentEstimated {
		number = "about " + number
	}
	return fmt.Sprintf("%s, the oldest for %s", number, lasting(m.OldestAge))
}

var (
	refusing = regexp.MustCompile(`(?i)ACCESS_REFUSED|\b403\b|not allowed|username or password|` +
		`permission denied|authentication|unauthorized`)
	full = regexp.MustCompile(`(?i)blocked publishers|low on (disk|memory)|its disk has|` +
		`no space left|disk is full`)
)

// findOutages takes what processes say, once for each thing that they wait for.
func (s *State) findOutages(c Config) {
	told := map[Kind]bool{}
	for _, o := range s.Outages {
		t := Trouble{Kind: OtherOutage, Why: o.Error, Since: o.Since}
		lasts := s.At.Sub(o.Since)
		if lasts < c.Patience {
			continue
		}
		switch {
		case o.What != "broker":
			t.What = said(OtherOutage, 0, o.Source, o.What, lasting(lasts))
		case refusing.MatchString(o.Error):
			t.Kind, t.What = BrokerRefuses, said(BrokerRefuses, 0, lasting(lasts), s.waiting())
		case full.MatchString(o.Error):
			t.Kind, t.What = BrokerFull, said(BrokerFull, 0, lasting(lasts), s.waiting())
		default:
			t.Kind, t.What = BrokerAway, said(BrokerAway, 0, lasting(lasts), s.waiting())
		}
		if told[t.Kind] && t.Kind != OtherOutage {
			continue // another relay says the same
		}
		told[t.Kind] = true
		s.add(t)
	}
}

// findStuck takes what does not leave the outbox, group by group.
func (s *State) findStuck(c Config) {
	for _, g := range s.Stuck {
		lasts := s.At.Sub(g.First)
		oldest := g.Keys[0]
		t := Trouble{Kind: KeysWait, Since: g.First, Model: oldest.Model}
		name, number := KeyName(oldest.Model, oldest.Key), many(g)
		switch {
		case g.Dead && g.Count == 1:
			t.Kind, t.What = DeadLetters, said(DeadLetters, 0, name, lasting(lasts))
		case g.Dead:
			t.Kind, t.What = DeadLetters, said(DeadLetters, 1, number, name, lasting(lasts))
		case lasts < c.Patience:
			continue
		case g.Count == 1:
			t.What = said(KeysWait, 0, name, lasting(lasts))
		default:
			t.What = said(KeysWait, 1, number, name, lasting(lasts))
		}
		t.Why = g.Error
		if !g.Dead {
			t.Why = "the broker does not take it: " + g.Error
		}
		s.add(t)
	}
}

func many(g admin.StuckGroup) string {
	if g.More {
		return fmt.Sprintf("more than %d", g.Count)
	}
	return fmt.Sprint(g.Count)
}

// findStalled finds what waits without anybody having said why.
func (s *State) findStalled(c Config) {
	m := s.Master
	if s.has(NoRelay, BrokerAway, BrokerRefuses, BrokerFull) || m.OldestAge < max(c.Patience, c.Late) {
		return
	}
	if m.LanesOwned < m.Lanes {
		s.add(Trouble{Kind: LanesUnowned, Since: s.At.Add(-m.OldestAge), Why: s.waiting(),
			What: said(LanesUnowned, 0, m.Lanes-m.LanesOwned, m.Lanes)})
		return
	}
	if m.Retries == 0 {
		s.add(Trouble{Kind: Stalled, Since: s.At.Add(-m.OldestAge), Why: s.waiting(),
			What: said(Stalled, 0)})
	}
}
