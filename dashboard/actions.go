package dashboard

import (
	"net/http"

	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// Actions are what may be done.
type Actions struct {
	Backfill, RetryAt func()
}

// cure is something that may be done about a trouble.
type cure struct{ Text, Link string }

func (d *Dashboard) curesOf(diagnosis.State, diagnosis.Trouble) []cure { return nil }

func (d *Dashboard) noteOf(*http.Request) *note { return nil }
