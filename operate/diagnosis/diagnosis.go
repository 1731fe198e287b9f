// Package diagnosis says in words how a master and its replicas are: one sentence for all of it,
// and of each trouble what it is, since when, why, and what to do.
//
//	state := diagnosis.Read(ctx, tables, diagnosis.Config{})
//	fmt.Println(state.Sentence) // Everything is moving. 3 replicas, all equal as of 12:03:05.
//
// The dashboard, relay status and the alerts take their words from here, so that they say the same
// and docs/operations.md can be found with any of them. All of it comes from the master's database.
// What only a process can see, that a broker is away say, is there if that process says it: Tell
// does that for a relay.
package diagnosis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// Config says from when on something is a trouble. The zero value is usable.
type Config struct {
	// Patience is how long a message may wait, and something may be away. Default: 30 s.
	Patience time.Duration
	// Late is how late a replica may be. Default: 1 min.
	Late time.Duration
}

func (c Config) withDefaults() Config {
	c.Patience = cmp.Or(c.Patience, 30*time.Second)
	c.Late = cmp.Or(c.Late, time.Minute)
	return c
}

// State is how things stand with a master and its replicas. Its names in JSON are never changed,
// only added.
type State struct {
	// At is the time by the clock of the master's database; by that of this process where it does
	// not answer.
	At time.Time `json:"at"`
	// Sentence says all of it in one line, or the first trouble.
	Sentence string `json:"sentence"`
	// Troubles are what is wrong, causes before what follows from them. Empty: all is well.
	Troubles []Trouble `json:"troubles"`
	// Readable says that the rest was read: the database answers, and has the tables.
	Readable bool `json:"readable"`
	// Master is the outbox, Replicas those that have reported, Stuck what does not leave the outbox,
	// and Outages what processes say that they wait for.
	Master   admin.MasterStatus   `json:"-"`
	Replicas []admin.KnownReplica `json:"-"`
	Stuck    []admin.StuckGroup   `json:"-"`
	Outages  []admin.Outage       `json:"-"`

	answers bool // the database did
}

// Trouble is one thing that is wrong. Its names in JSON are never changed, only added.
type Trouble struct {
	// Kind is the anchor of its entry in docs/operations.md.
	Kind Kind `json:"kind"`
	// What says it in words: order 17 waits for 12 min.
	What string `json:"what"`
	// Why is the last error, or what else is known of the cause; empty for nothing.
	Why string `json:"why"`
	// Since is when it began; zero where nobody knows.
	Since time.Time `json:"since,omitzero"`
	// Do is the operator's next step.
	Do string `json:"do"`
	// Runbook is where the documentation says more.
	Runbook string `json:"runbook"`
	// Queue names the replica that it is about, Model the model; empty for all.
	Queue string `json:"queue,omitempty"`
	Model string `json:"model,omitempty"`
}

// Sentence is the trouble in one line.
func (t Trouble) Sentence() string {
	if t.Why == "" {
		return t.What + "."
	}
	return t.What + ": " + ended(t.Why)
}

// Read reads how things stand. It never fails: a database that does not answer is a trouble, too.
func Read(ctx context.Context, tables *admin.Tables, c Config) State {
	c = c.withDefaults()
	s := State{At: time.Now().UTC(), Troubles: []Trouble{}}
	if err := s.read(ctx, tables); err != nil {
		s.Readable = false
		s.add(s.unreadable(err))
	} else {
		s.Readable = true
		s.find(c)
	}
	s.sort()
	s.Sentence = s.sentence()
	return s
}

// sort puts causes before what follows from them.
func (s *State) sort() {
	slices.SortStableFunc(s.Troubles, func(a, b Trouble) int {
		return cmp.Compare(order(a.Kind), order(b.Kind))
	})
}

func (s *State) read(ctx context.Context, tables *admin.Tables) error {
	master, err := tables.Master(ctx)
	if err != nil {
		s.answers = tables.Ping(ctx) == nil
		return err
	}
	if s.At, err = master.Now(ctx); err != nil {
		return err
	}
	s.answers = true
	if s.Master, err = master.Status(ctx); err != nil {
		return err
	}
	if s.Stuck, err = master.Stuck(ctx); err != nil {
		return err
	}
	if s.Outages, err = master.Outages(ctx); err != nil {
		return err
	}
	s.Replicas, err = master.Replicas(ctx)
	return err
}

func (s *State) unreadable(err error) Trouble {
	if errors.Is(err, admin.ErrNotMigrated) {
		return Trouble{Kind: NotMigrated, Why: err.Error(), What: said(NotMigrated, 0)}
	}
	if s.answers && !errors.Is(err, context.DeadlineExceeded) {
		return Trouble{Kind: Unreadable, Why: err.Error(), What: said(Unreadable, 0)}
	}
	return Trouble{Kind: DatabaseAway, Why: err.Error(), What: said(DatabaseAway, 0)}
}

// Unanswered is the trouble that a database did not answer, for who could not even open it.
func Unanswered(kind Kind, err error) Trouble {
	var s State
	s.add(Trouble{Kind: kind, Why: err.Error(), What: said(kind, 0)})
	return s.Troubles[0]
}

// add adds a trouble, and what is to be done about it.
func (s *State) add(t Trouble) {
	t.Do, t.Runbook = steps[t.Kind].do, "docs/operations.md#"+string(t.Kind)
	s.Troubles = append(s.Troubles, t)
}

func (s *State) has(kinds ...Kind) bool {
	return slices.ContainsFunc(s.Troubles, func(t Trouble) bool {
		return slices.Contains(kinds, t.Kind)
	})
}

func (s *State) sentence() string {
	if first := s.first(); first != "" {
		return first
	}
	return "Everything is moving. " + s.equal()
}

// first says the first trouble, and that there are others; empty where there is none.
func (s *State) first() string {
	if len(s.Troubles) == 0 {
		return ""
	}
	first := s.Troubles[0].Sentence()
	if more := len(s.Troubles) - 1; more > 0 {
		first += fmt.Sprintf(" And %s.", counted(int64(more), "other trouble", "other troubles"))
	}
	return first
}

// equal says how far replicas are proven equal.
func (s *State) equal() string {
	if len(s.Replicas) == 0 {
		return "No replica has reported."
	}
	var through time.Time
	models, proven := 0, 0
	for _, r := range s.Replicas {
		for _, m := range r.Models {
			models++
			if m.EqualThrough == nil {
				continue
			}
			proven++
			if through.IsZero() || m.EqualThrough.Before(through) {
				through = *m.EqualThrough
			}
		}
	}
	count := counted(int64(len(s.Replicas)), "replica", "replicas")
	switch {
	case proven == 0:
		return count + ", not compared yet."
	case proven < models:
		return fmt.Sprintf("%s, %d of %d models equal as of %s, the others not compared yet.",
			count, proven, models, s.clock(through))
	case len(s.Replicas) == 1:
		return fmt.Sprintf("%s, equal as of %s.", count, s.clock(through))
	default:
		return fmt.Sprintf("%s, all equal as of %s.", count, s.clock(through))
	}
}
