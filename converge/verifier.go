package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/replica"
)

// Verify says what a replica does about what a comparison with its master finds.
type Verify string

const (
	// Repair asks the master for what differs. It is the default.
	Repair Verify = "repair"
	// ReportOnly says what differs.
	ReportOnly Verify = "report"
	// NoVerify compares nothing.
	NoVerify Verify = "off"
)

const (
	defaultGrace = 30 * time.Second
	// maxQuestions is how many of them wait; the master asks again.
	maxQuestions = 256
	// maxSuspects bounds what is remembered between two looks.
	maxSuspects = 100_000
	// longestRest bounds how long the replica rests after a question that nobody waits for.
	longestRest = time.Minute
)

// verifier is the replica's side of the verification: it answers what the master asks, one question
// after the other.
type verifier struct {
	*Reporter

	rep       *replica.Replica
	questions chan question
	later     []question        // those that wait for the rest to be over
	rested    time.Time         // when it is
	spoken    map[string]spoken // by model
	suspects  []suspects        // in the order in which they were seen
	allowed   map[string]bool   // by pass: whether keys may be deleted that only the replica has
	now       func() time.Time
}

// question is a message of the master.
type question struct {
	kind  kind
	body  []byte
	about about // once it was read
}

// spoken says whether the ledger spoke for the table when a pass began.
type spoken struct {
	pass   string
	speaks bool
}

func newVerifier(r *Reporter, rep *replica.Replica) *verifier {
	return &verifier{
		Reporter: r, rep: rep, questions: make(chan question, maxQuestions),
		spoken: map[string]spoken{}, allowed: map[string]bool{}, now: time.Now,
	}
}

// hear takes a question; it does not wait.
func (v *verifier) hear(k kind, body []byte) error {
	if v.config.Verify == NoVerify {
		return errors.New("a verification, which is switched off here")
	}
	select {
	case v.questions <- question{kind: k, body: body}:
		return nil
	default:
		return errors.New("a verification whose questions come too fast")
	}
}

// run answers until ctx ends.
func (v *verifier) run(ctx context.Context) {
	tick := time.NewTicker(min(max(v.config.Grace/4, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for ctx.Err() == nil {
		var err error
		select {
		case q := <-v.questions:
			err = v.take(ctx, q)
		case <-tick.C:
			if len(v.later) > 0 && !v.now().Before(v.rested) {
				q := v.later[0]
				v.later = v.later[1:]
				err = v.take(ctx, q)
			}
			err = errors.Join(err, v.lookAgain(ctx))
		case <-ctx.Done():
		}
		if err != nil && ctx.Err() == nil {
			v.log.Warn("cannot compare with the master; it asks again", "error", err)
		}
	}
}

// take answers a question, or has it wait. Nobody waits for a rolling comparison: so after each
// answer the replica rests, until it takes the next step.
func (v *verifier) take(ctx context.Context, q question) error {
	m, err := readVerifying[asked](q.body)
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return err
	}
	q.about = m.about
	waits := q.kind == kindWalk || q.kind == kindRanges && isStep(m.ID)
	if waits && !m.Urgent && v.now().Before(v.rested) {
		v.wait(q)
		return nil
	}
	began := v.now()
	err = v.answer(ctx, q)
	if took := v.now().Sub(began); !m.Urgent {
		v.rested = v.now().Add(min(max(v.rested.Sub(v.now()), 0)+resting(took), longestRest))
	}
	return err
}

// wait has a question wait for the rest to be over. It replaces one that was asked before, and
// those of a pass that has ended: the master takes no answer to them any more.
func (v *verifier) wait(q question) {
	v.later = slices.DeleteFunc(v.later, func(other question) bool {
		return other.about.Model == q.about.Model &&
			(other.about.Pass != q.about.Pass || other.about.ID == q.about.ID)
	})
	if len(v.later) < maxQuestions {
		v.later = append(v.later, q)
	}
}

// answer answers a question.
func (v *verifier) answer(ctx context.Context, q question) error {
	switch q.kind {
	case kindRanges:
		m, err := readVerifying[ranges](q.body)
		if err != nil {
			return err
		}
		return v.compare(ctx, m)
	case kindListing:
		m, err := readVerifying[listing](q.body)
		if err != nil {
			return err
		}
		return v.list(ctx, m)
	case kindWalk:
		m, err := readVerifying[asked](q.body)
		if err != nil {
			return err
		}
		return v.walk(ctx, m)
	default:
		m, err := readVerifying[absent](q.body)
		if err != nil {
			return err
		}
		return v.deleteAbsent(ctx, m)
	}
}

// tellMaster answers.
func (v *verifier) tellMaster(ctx context.Context, k kind, model string, what any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("write an answer: %w", err)
	}
	_, err = v.say(ctx, k, model, body)
	return err
}

func (v *verifier) headOf(k kind) head {
	return head{Version: version, Kind: k, Queue: v.queue, Instance: v.config.Instance}
}

// speaks says whether the ledger has what the table has; it is asked once in a pass.
func (v *verifier) speaks(ctx context.Context, a about) (bool, error) {
	if s := v.spoken[a.Model]; s.pass == a.Pass {
		return s.speaks, nil
	}
	speaks, err := v.replica.LedgerSpeaks(ctx, a.Model)
	if err == nil {
		v.spoken[a.Model] = spoken{a.Pass, speaks}
	}
	return speaks, err
}

func (v *verifier) portion(
	ctx context.Context, a asked, after, to string,
) (p mirrored.Portion, err error) {
	p = mirrored.Portion{After: after, To: to}
	if p.Speaks, err = v.speaks(ctx, a.about); err == nil && a.Content {
		p.Content, err = v.contentOf(a.Model)
	}
	return p, err
}

// compare says which ranges differ.
func (v *verifier) compare(ctx context.Context, m ranges) error {
	out := compared{head: v.headOf(kindCompared), about: m.about}
	after := m.After
	for i, theirs := range m.Parts {
		p, err := v.portion(ctx, m.asked, after, theirs.To)
		if err != nil {
			return err
		}
		ours, err := v.replica.Digest(ctx, m.Model, p)
		if err != nil {
			return err
		}
		if ours.Keys != theirs.Keys || ours.Sum != theirs.Sum {
			out.Differ = append(out.Differ, differing{i, after, theirs.To, theirs.Keys})
		}
		after = theirs.To
	}
	return v.tellMaster(ctx, kindCompared, m.Model, out)
}

// list compares what the master has in a range with what is here. What differs is looked at again.
func (v *verifier) list(ctx context.Context, m listing) error {
	p, err := v.portion(ctx, m.asked, m.After, m.To)
	if err != nil {
		return err
	}
	p.Limit = len(m.Claims) + mostExtra
	held, _, more, err := v.replica.Holdings(ctx, m.Model, p)
	if err != nil {
		return err
	}
	s := suspects{asked: m.asked, seen: v.now(), read: m.Read, found: map[string]int64{}}
	if more {
		s.found[tooMany]++ // they are looked at when some of them are gone
	}
	here := make(map[string]mirrored.Holding, len(held))
	for _, h := range held {
		here[h.Key] = h
	}
	for _, c := range m.Claims {
		h, is := here[c.Key]
		if !is && !more || is && (h.Revision != c.Revision || h.Content != c.Content) {
			s.claims = append(s.claims, c)
		}
		delete(here, c.Key)
	}
	for _, h := range held {
		if _, extra := here[h.Key]; extra {
			s.extra = append(s.extra, registry.Absent{Key: h.Key, Revision: h.Revision})
		}
	}
	return v.suspect(ctx, s)
}
