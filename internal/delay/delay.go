// Package delay counts messages per model, and how long they took. Its counts are a histogram's, so
// that a monitor shows them without having seen each message.
package delay

import (
	"sync"
	"time"
)

// bounds are the upper ends of the buckets: from a message that is handed over to an outage of an
// hour.
var bounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
}

// maxModels bounds the memory, whatever stands in the outbox. What is beyond counts as Other.
const maxModels = 1000

// Other is the model of messages beyond maxModels.
const Other = "(other)"

// Models counts messages by their model. The zero value is ready; it is safe for concurrent use.
type Models struct {
	mu sync.Mutex
	by map[string]*counts
}

type counts struct {
	messages, timed uint64
	sum             time.Duration
	buckets         [len(bounds)]uint64
}

// Add counts a message.
func (m *Models) Add(model string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(model).messages++
}

// AddTook counts a message that took a while. The clocks of two hosts may differ, so a time before
// it began counts as none.
func (m *Models) AddTook(model string, took time.Duration) {
	took = max(took, 0)
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.of(model)
	c.messages++
	c.timed++
	c.sum += took
	for i, bound := range bounds {
		if took <= bound {
			c.buckets[i]++
			break
		}
	}
}

func (m *Models) of(model string) *counts {
	c := m.by[model]
	if c != nil {
		return c
	}
	if len(m.by) >= maxModels {
		model = Other
		if c = m.by[model]; c != nil {
			return c
		}
	}
	if m.by == nil {
		m.by = map[string]*counts{}
	}
	c = &counts{}
	m.by[model] = c
	return c
}

// Model is what was counted of a model.
type Model struct {
	// Messages is how many there were, and Timed how many of them with a time.
	Messages, Timed uint64
	// Sum is how long those took together.
	Sum time.Duration
	// Within says of each bound how many took no longer.
	Within map[time.Duration]uint64
}

// Each returns what was counted, by model.
func (m *Models) Each() map[string]Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]Model, len(m.by))
	for model, c := range m.by {
		within, sum := make(map[time.Duration]uint64, len(bounds)), uint64(0)
		for i, bound := range bounds {
			sum += c.buckets[i]
			within[bound] = sum
		}
		all[model] = Model{c.messages, c.timed, c.sum, within}
	}
	return all
}
