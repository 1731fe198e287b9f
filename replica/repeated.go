package replica

import (
	"maps"
	"strings"
	"sync"
	"time"
)

// repeatEvery is how often the same trouble is logged.
const repeatEvery = time.Minute

// repeated keeps trouble that lasts from filling the log: what comes again and again is logged when
// it changes, and every minute.
type repeated struct {
	mu   sync.Mutex
	last map[string]saying // by what is in trouble
}

type saying struct {
	text        string
	since, said time.Time
	err         error
}

// worth says whether an error is to be logged. Numbers in it do not count as a change: ports and
// times differ each time.
func (r *repeated) worth(what string, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = make(map[string]saying)
	}
	now, before, text := time.Now(), r.last[what], withoutDigits(err.Error())
	if before.text == text && now.Sub(before.said) < repeatEvery {
		return false
	}
	if before.since.IsZero() {
		before.since = now
	}
	r.last[what] = saying{text, before.since, now, err}
	return true
}

// over ends some trouble, and says whether there was any, and since when.
func (r *repeated) over(what string) (since time.Time, was bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, was := r.last[what]
	delete(r.last, what)
	return before.since, was
}

// now returns what is in trouble.
func (r *repeated) now() map[string]saying {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.last)
}

func withoutDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}
