package simulation

import (
	"slices"
	"strconv"
)

// A database that goes back loses what was committed since, and nobody can bring that back. What it
// has then, and what is written from then on, arrives (P5). It arrives in order (P4) under the
// incarnation that is drawn when relays are told, by the server that answers. Before they are told,
// and where nothing tells them but a lease that is not as they left it, they go on by what they
// remember: docs/operations.md says so, and the order is not judged.

// timeline names what is written now.
func (c *checker) timeline() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strconv.Itoa(c.restores)
}

// orderly says that what arrives under an incarnation must do so in order.
func (c *checker) orderly(incarnation string) bool { return !c.untold && !c.stale[incarnation] }

// backUp notes what the database has, and returns a function to be called when it has gone back to
// that. stale are the incarnations that were drawn before; told says that relays are told.
func (c *checker) backUp() (wentBack func(stale []string, told bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	saved := map[string][]commit{}
	for key, h := range c.keys {
		saved[key] = slices.Clone(h.committed)
	}
	return func(stale []string, told bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.note("the database goes back")
		for key, h := range c.keys {
			h.committed = slices.Clone(saved[key])
			clear(h.since)
		}
		for _, id := range stale {
			c.stale[id] = true
		}
		c.untold = c.untold || !told
		c.restores++
	}
}
