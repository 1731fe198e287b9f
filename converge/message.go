package converge

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// version is that of the conversation. What has a later one is not understood, and ignored.
const version = 1

// maxBody bounds what is read of a message, in bytes: nobody of ours writes more.
const maxBody = 1 << 20

// kind says what a message of the conversation is about.
type kind string

// What replicas say to masters, and what masters say to a replica.
const (
	kindReport    kind = "report"
	kindResync    kind = "resync"
	kindHeartbeat kind = "heartbeat"
	// A replica asks for all of a model, and hears when all of it has come.
	kindBackfill   kind = "backfill"
	kindBackfilled kind = "backfilled"
	// A master asks what a replica has of one key, and hears it.
	kindInquiry kind = "inquiry"
	kindEntry   kind = "entry"
	// A master has a replica try its dead letters again.
	kindRetry kind = "retry"
	// A master has a replica delete dead letters.
	kindPurge kind = "purge"
)

// head is how every message begins.
type head struct {
	Version int  `json:"v"`
	Kind    kind `json:"kind"`
	// Queue is the replica's name, and Instance the process of it that speaks; empty from a master.
	Queue    string `json:"queue,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// report is what a process of a replica says every now and then.
type report struct {
	head

	Library string `json:"library"`
	// Pace is how often it says so, in seconds.
	Pace float64 `json:"pace"`
	// Models are those that it takes from this master.
	Models []modelReport `json:"models"`
	// Echo is the newest heartbeat that it has worked off.
	Echo *echo `json:"echo,omitempty"`
}

// modelReport is how things stand with a model on a replica.
type modelReport struct {
	ID string `json:"id"`
	// Newest is the latest time of the master's clock among what the process has applied.
	Newest *time.Time `json:"newest,omitempty"`
	// Applied counts what the process has applied, and Rate how many a second since the last report.
	Applied int64   `json:"applied"`
	Rate    float64 `json:"rate"`
	// Waiting and DeadLetters are what the replica's database has of them.
	Waiting     int64 `json:"waiting"`
	DeadLetters int64 `json:"dead_letters"`
	// Stuck are those, grouped by error, as far as there is room.
	Stuck []mirrored.StuckGroup `json:"stuck,omitempty"`
	// Asked counts the keys that the process has asked for, by cause.
	Asked map[string]int64 `json:"asked,omitempty"`
	// Verify is how the model is to be verified, nil for not at all.
	Verify *verifySetting `json:"verify,omitempty"`
}

// echo is a heartbeat that comes back.
type echo struct {
	Sent    time.Time `json:"sent"`
	Through time.Time `json:"through"`
	// Held is how long ago it was worked off, in seconds, by the replica's clock.
	Held float64 `json:"held"`
}

// resync asks for the state of keys.
type resync struct {
	head

	Model string     `json:"model"`
	Cause string     `json:"cause"`
	Keys  []askedKey `json:"keys"`
}

// askedKey is a key as ledgers spell it. A state helps only if its revision is higher than Above.
type askedKey struct {
	Key   string `json:"key"`
	Above int64  `json:"above"`
}

// heartbeat is what a master says in the queue of each replica, behind all that it sent before.
type heartbeat struct {
	head

	// Models are those that this master answers for, of the queue's.
	Models []string `json:"models"`
	// Sent is when it went out, Through the time up to which all that was committed went out before.
	Sent    time.Time `json:"sent"`
	Through time.Time `json:"through"`
	// Verified is how the comparisons of these models with the replica ended.
	Verified []verified `json:"verified,omitempty"`
}

// maxKeys is how many keys one request may name.
const maxKeys = 1000

// errForeign is what another version, or nobody of ours, says.
var errForeign = errors.New("no message of the conversation that this version knows")

// readHead reads how a message begins.
func readHead(body []byte) (head, error) {
	var h head
	if len(body) > maxBody {
		return h, fmt.Errorf("%w: it has %d bytes, want at most %d", errForeign, len(body), maxBody)
	}
	if err := json.Unmarshal(body, &h); err != nil {
		return h, fmt.Errorf("%w: %w", errForeign, err)
	}
	if h.Version < 1 || h.Version > version {
		return h, fmt.Errorf("%w: version %d", errForeign, h.Version)
	}
	return h, nil
}

var names = regexp.MustCompile(`^[^\x00-\x1f]{1,200}$`)

// checkSender checks who says something to a master.
func (h head) checkSender() error {
	for field, name := range map[string]string{"queue": h.Queue, "instance": h.Instance} {
		if !names.MatchString(name) {
			return fmt.Errorf("%s: %.40q, want a name of at most 200 characters", field, name)
		}
	}
	return nil
}

func readReport(body []byte) (r report, err error) {
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errForeign, err)
	}
	if r.Pace <= 0 || r.Pace > maxPace.Seconds() {
		return r, fmt.Errorf("pace: %v, want seconds, at most %v", r.Pace, maxPace.Seconds())
	}
	if len(r.Models) == 0 {
		return r, errors.New("models: none")
	}
	for _, m := range r.Models {
		if err := envelope.CheckModel(m.ID); err != nil {
			return r, fmt.Errorf("models: %w", err)
		}
	}
	return r, nil
}

func readResync(body []byte) (r resync, err error) {
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errForeign, err)
	}
	if len(r.Keys) > maxKeys {
		return r, fmt.Errorf("keys: %d, want at most %d", len(r.Keys), maxKeys)
	}
	return r, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
