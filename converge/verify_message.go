package converge

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/registry"
)

// The verification is a conversation of its own. The master sends digests of the ranges of a
// model's keys, the replica names those that differ, the master divides these, and sends the keys
// of what is small. The replica looks twice at a key that is not as the master said. What it finds
// then is settled: counted, and repaired.

// What is said in it.
const (
	kindRanges   kind = "ranges"
	kindListing  kind = "listing"
	kindWalk     kind = "walk"
	kindAbsent   kind = "absent"
	kindCompared kind = "compared"
	kindSettled  kind = "settled"
)

// stepParts ranges of partKeys keys are compared in a step. Tests make smaller ones.
var (
	stepParts = 32
	partKeys  = 4096
)

const (
	// splitParts is into how many a range is divided that differs, unless it has no more keys than
	// fewKeys: those are listed.
	splitParts = 16
	fewKeys    = 300
	// mostListed bounds a listing, and mostExtra what a replica tells of keys that it alone has.
	mostListed = 600
	mostExtra  = 500
)

// about says which part of which pass a message is about.
type about struct {
	Model string `json:"model"`
	Pass  string `json:"pass"`
	ID    string `json:"id"`
	// Sent is when the master asked; the answer repeats it.
	Sent time.Time `json:"sent"`
}

// asked is how a question of the master begins.
type asked struct {
	head
	about

	// Urgent says that somebody waits, so that the replica does not rest.
	Urgent bool `json:"urgent,omitempty"`
	// Content says that what the rows hold is compared, too.
	Content bool `json:"content,omitempty"`
}

// ranges are digests of ranges that follow each other, the first after After.
type ranges struct {
	asked

	After string `json:"after"`
	Parts []part `json:"parts"`
}

// part is a range up to To, which is open where that is empty.
type part struct {
	To   string `json:"to"`
	Keys int    `json:"n"`
	Sum  string `json:"sum"`
}

// compared names the ranges that differ.
type compared struct {
	head
	about

	Differ []differing `json:"differ,omitempty"`
}

type differing struct {
	Part  int    `json:"i"`
	After string `json:"after"`
	To    string `json:"to"`
	Keys  int    `json:"n"`
}

// listing is what the master has in a range.
type listing struct {
	asked

	After  string  `json:"after"`
	To     string  `json:"to"`
	Claims []claim `json:"claims"`
	// Read is when the master had read them, by its database's clock.
	Read time.Time `json:"read"`
}

// claim is a key with its revision, and what stands for its content.
type claim struct {
	Key      string `json:"k"`
	Revision int64  `json:"r"`
	Content  string `json:"c,omitempty"`
}

// settled is what was found, after the grace.
type settled struct {
	head
	about

	// Found counts the keys that differ, by how they do.
	Found map[string]int64 `json:"found,omitempty"`
	// NoRepair says that nothing is to be repaired.
	NoRepair bool `json:"no_repair,omitempty"`
	// Extra are keys that the replica alone seems to have, Buried those of them whose tombstone it
	// has beside a row.
	Extra  []registry.Absent `json:"extra,omitempty"`
	Buried []registry.Absent `json:"buried,omitempty"`
}

// absent are keys that the master neither has nor remembers, some of so many.
type absent struct {
	head
	about

	Of   int64             `json:"of"`
	Keys []registry.Absent `json:"keys"`
}

// verifySetting is how a replica wants a model to be verified.
type verifySetting struct {
	// Grace is how long a difference has to last, in seconds.
	Grace float64 `json:"grace"`
	// NoRepair says that it repairs nothing.
	NoRepair bool `json:"no_repair,omitempty"`
	// Fields are those that it keeps, where their content is to be compared.
	Fields []keptField `json:"fields,omitempty"`
}

func (s *verifySetting) grace() time.Duration {
	return min(max(seconds(s.Grace), 0), maxPace)
}

// readVerifying reads a message of the verification into m.
func readVerifying[M any](body []byte) (m M, err error) {
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("%w: %w", errForeign, err)
	}
	return m, nil
}

func (a about) check() error {
	if a.Model == "" || a.Pass == "" || a.ID == "" || len(a.Pass) > 100 || len(a.ID) > 100 {
		return fmt.Errorf("%w: a message of a verification without model, pass or id", errForeign)
	}
	return nil
}

func (c compared) of() (queue, model string) { return c.Queue, c.Model }

func (c compared) check() error {
	if most := max(stepParts, splitParts); len(c.Differ) > most {
		return fmt.Errorf("differ: %d, want at most %d", len(c.Differ), most)
	}
	for _, d := range c.Differ {
		if d.Part < 0 || d.Part >= max(stepParts, splitParts) || d.Keys < 0 ||
			len(d.After) > maxKeyBytes || len(d.To) > maxKeyBytes {
			return errors.New("differ: no part of what was asked")
		}
	}
	return c.about.check()
}

// maxKeyBytes is how long a key can be.
const maxKeyBytes = 2048

func (s settled) of() (queue, model string) { return s.Queue, s.Model }

func (s settled) check() error {
	if len(s.Extra) > mostExtra || len(s.Buried) > mostExtra {
		return fmt.Errorf("extra: %d and %d, want at most %d", len(s.Extra), len(s.Buried), mostExtra)
	}
	for how, n := range s.Found {
		if len(how) > 40 || n < 0 {
			return errors.New("found: no counts")
		}
	}
	return s.about.check()
}
