package diagnosis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// ErrNoKey says that a text does not name a key.
var ErrNoKey = errors.New("want a model and a key, as in: order 17")

// ParseKey reads a model and a key, as people write them: order 17, or order/17. The key is as
// ledgers spell it.
func ParseKey(text string) (model, key string, err error) {
	text = strings.TrimSpace(text)
	i := strings.IndexAny(text, " \t/")
	if i < 0 {
		return "", "", ErrNoKey
	}
	model, key = text[:i], strings.TrimSpace(text[i+1:])
	if model == "" || key == "" {
		return "", "", ErrNoKey
	}
	return model, key, nil
}

// KeyState is where a key is on its way, in words. Its names in JSON are never changed, only added.
type KeyState struct {
	// Sentence says it in one line.
	Sentence string `json:"sentence"`
	// Fine says that all replicas that answered have what the master has, and nothing waits.
	Fine bool `json:"fine"`
	// Timeline is what happened to the key, oldest first.
	Timeline []Event `json:"timeline"`
}

// Event is one thing that happened to a key, or that is so now.
type Event struct {
	// At is when, by the clock of the place; zero for now.
	At time.Time `json:"at,omitzero"`
	// Where is master, or the queue of a replica.
	Where string `json:"where"`
	What  string `json:"what"`
	// Bad says that it is in the way of the key.
	Bad bool `json:"bad"`
}

// OfKey says where a key is on its way.
func OfKey(k *admin.Key) KeyState {
	s := KeyState{Timeline: timeline(k)}
	name := KeyName(k.Model, k.Key)
	var behind, silent, has []string
	for _, r := range k.Replicas {
		queue := printable(r.Queue)
		switch {
		case r.Answered == nil:
			silent = append(silent, queue)
		case len(r.Stuck) > 0 || !alike(k, r):
			behind = append(behind, queue+" "+whatReplica(r))
		default:
			has = append(has, queue)
		}
	}
	here := fmt.Sprintf("%s %s on the master", name, what(k.Known, k.Deleted, k.Revision))
	switch {
	case k.Retry != nil:
		s.Sentence = fmt.Sprintf("%s waits for %s: the broker does not take it: %s", name,
			lasting(k.At.Sub(k.Retry.Since)), ended(k.Retry.Error))
	case len(k.DeadLetters) > 0 && len(k.Unsent) == 0 && len(behind) > 0:
		last := k.DeadLetters[len(k.DeadLetters)-1]
		s.Sentence = fmt.Sprintf("%s was given up in revision %d: %s", name, last.Revision,
			ended(last.Error))
	case len(k.Unsent) > 0:
		s.Sentence = fmt.Sprintf("%s, and %s to be sent since %s.", here,
			counted(int64(len(k.Unsent)), "message waits", "messages wait"),
			lasting(k.At.Sub(k.Unsent[0].Created)))
	case len(behind) > 0:
		s.Sentence = here + ", but " + strings.Join(behind, ", ") + "."
	case len(silent) > 0:
		s.Sentence = here + ", and " + strings.Join(silent, ", ") + " gave no answer."
	case len(has) == 0:
		s.Fine, s.Sentence = true, here+". No replica takes the model."
	case !k.Known:
		s.Fine, s.Sentence = true, name+" is not known, neither on the master nor on replicas."
	default:
		s.Fine, s.Sentence = true, here+", and the same on "+strings.Join(has, ", ")+"."
	}
	return s
}

// alike says that a replica has what the master has.
func alike(k *admin.Key, r admin.KeyAtReplica) bool {
	if !k.Known {
		return !r.Known || r.Deleted
	}
	// a replica that never saw a deleted key does not remember it
	return r.Known && r.Revision >= k.Revision && r.Deleted == k.Deleted || !r.Known && k.Deleted
}

func what(known, deleted bool, revision int64) string {
	switch {
	case !known:
		return "is not known"
	case deleted:
		return fmt.Sprintf("is deleted in revision %d", revision)
	default:
		return fmt.Sprintf("is at revision %d", revision)
	}
}

func whatReplica(r admin.KeyAtReplica) string {
	has := "does not have it"
	if r.Known {
		has = what(true, r.Deleted, r.Revision)
	}
	if len(r.Stuck) > 0 {
		has += ", because: " + printable(r.Stuck[0].Error)
	}
	return has
}

func timeline(k *admin.Key) []Event {
	var events []Event
	add := func(at time.Time, what string, bad bool) {
		events = append(events, Event{at, "master", what, bad})
	}
	if k.Known {
		verb := "wrote"
		if k.Deleted {
			verb = "deleted it in"
		}
		add(k.Updated, fmt.Sprintf("%s revision %d", verb, k.Revision), false)
	} else {
		add(time.Time{}, "does not know it", false)
	}
	for _, u := range k.Unsent {
		to := ""
		if u.Queue != "" {
			to = ", for " + printable(u.Queue) + " alone"
		}
		add(u.Created, fmt.Sprintf("has %s of revision %d to send%s", u.Signal, u.Revision,
			to), false)
	}
	if r := k.Retry; r != nil {
		add(r.Since, fmt.Sprintf("waits, tried %s, again at %s: %s", counted(
			int64(r.Attempts), "time", "times"), r.Next.Format("15:04:05"), printable(r.Error)), true)
	}
	for _, d := range k.DeadLetters {
		add(d.Dead, fmt.Sprintf("gave up %s of revision %d: %s", d.Signal, d.Revision,
			printable(d.Error)), true)
	}
	for _, r := range k.Replicas {
		events = append(events, atReplica(r)...)
	}
	slices.SortStableFunc(events, func(a, b Event) int {
		if a.At.IsZero() != b.At.IsZero() { // what is now comes last
			if a.At.IsZero() {
				return 1
			}
			return -1
		}
		return a.At.Compare(b.At)
	})
	return events
}

func atReplica(r admin.KeyAtReplica) (events []Event) {
	queue := printable(r.Queue)
	switch {
	case r.Answered == nil:
		last := "; it has reported nothing"
		if r.Through != nil {
			last = "; by its last report it has all until " + r.Through.Format(time.RFC3339)
		}
		return []Event{{Where: queue, What: "gave no answer: " + r.Silence + last}}
	case !r.Known:
		events = append(events, Event{Where: queue, What: "does not have it"})
	default:
		verb := "applied"
		if r.Deleted {
			verb = "deleted it in"
		}
		at := time.Time{}
		if r.Applied != nil {
			at = *r.Applied
		}
		events = append(events, Event{At: at, Where: queue,
			What: fmt.Sprintf("%s revision %d", verb, r.Revision)})
	}
	for _, s := range r.Stuck {
		verb := "keeps waiting"
		if s.Dead {
			verb = "gave up"
		}
		events = append(events, Event{At: s.Since, Where: queue, Bad: true,
			What: fmt.Sprintf("%s revision %d: %s", verb, s.Revision, printable(s.Error))})
	}
	return events
}
