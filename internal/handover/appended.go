package handover

import (
	"time"

	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// Appended collects what a transaction appends, to be offered. Nil collects nothing, and the
// database is not asked what identities it drew.
type Appended struct {
	messages []outgoing.Message
	rest     bool
	size     int
}

// Offer is what was collected by a transaction that committed after before.
func (a *Appended) Offer(before time.Time) Offer {
	if a == nil {
		return Offer{Rest: true}
	}
	return Offer{Messages: a.messages, Rest: a.rest, Before: before}
}

// Wants says whether n more messages are collected; if not, the relay is to read them.
func (a *Appended) Wants(n int) bool {
	if a == nil {
		return false
	}
	if len(a.messages)+n > maxOffered {
		a.rest = true
		return false
	}
	return true
}

// Add takes a message in that has its identity, if it is one to be offered.
func (a *Appended) Add(m outgoing.Message) {
	a.size += len(m.Data) + len(m.Previous) + len(m.Meta)
	if !m.Follows || m.Queue != "" || a.size > maxOfferedBytes {
		a.rest = true
		return
	}
	a.messages = append(a.messages, m)
}

// Leave notes that there is more than was collected: the relay is to read it.
func (a *Appended) Leave() { a.rest = true }
