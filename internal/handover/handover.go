// Package handover carries messages from those who have committed them to a relay in the same
// process.
package handover

import (
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// Handover carries messages from those who have committed them to a relay in the same process,
// which then need not read them. It loses what the relay does not take in time: that stands in the
// outbox as everything does.
type Handover struct {
	offers chan Offer
	missed atomic.Bool
}

// Offer is what one transaction appended.
type Offer struct {
	// Messages are those that may go without a look into the outbox, if the relay has sent the one
	// before.
	Messages []outgoing.Message
	// Rest says that there is more in the outbox.
	Rest bool
	// Before is a time at which the transaction had not committed yet: so no relay had read its
	// messages.
	Before time.Time
}

// What waits for the relay is bounded: offers, and the messages of each and their payload.
const (
	maxOffers       = 128
	maxOffered      = 64
	maxOfferedBytes = 64 << 10
)

// New returns one that nobody takes from yet.
func New() *Handover { return &Handover{offers: make(chan Offer, maxOffers)} }

// Offer hands messages over, unless too much waits already. It never blocks.
func (h *Handover) Offer(o Offer) {
	select {
	case h.offers <- o:
		return
	default:
	}
	h.missed.Store(true)
	select { // in case the relay has taken everything meanwhile, and waits
	case h.offers <- Offer{}:
	default:
	}
}

// Offers is what the relay takes from. With each it asks Missed.
func (h *Handover) Offers() <-chan Offer {
	if h == nil {
		return nil
	}
	return h.offers
}

// Missed says whether there was no room for an offer since it was asked last.
func (h *Handover) Missed() bool { return h.missed.Swap(false) }
