package dashboard

import (
	"net/url"

	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// cure is something that may be done about a trouble here.
type cure struct{ Text, Link string }

// curesOf are the actions that are offered beside a trouble.
func (d *Dashboard) curesOf(s diagnosis.State, t diagnosis.Trouble) []cure {
	if d.config.Actions == nil {
		return nil
	}
	about := func(text, do string, more ...string) []cure {
		values := url.Values{"do": {do}, "queue": {t.Queue}, "model": {t.Model}}
		for i := 0; i < len(more); i += 2 {
			values.Set(more[i], more[i+1])
		}
		for name := range values {
			if values.Get(name) == "" {
				values.Del(name)
			}
		}
		return []cure{{text, "confirm?" + values.Encode()}}
	}
	switch t.Kind {
	case diagnosis.KeysWait, diagnosis.DeadLetters:
		for _, g := range s.Stuck {
			if g.Dead == (t.Kind == diagnosis.DeadLetters) && g.First.Equal(t.Since) {
				return about("Retry", "retry", "group", groupID(g), "queue", "", "model", "")
			}
		}
	case diagnosis.QueueVanished, diagnosis.ReplicaDiffers, diagnosis.ReplicaUncertain,
		diagnosis.ReplicaWaits:
		return about("Verify now", "verify", "model", "")
	case diagnosis.ReplicaSilent:
		return about("Forget it", "forget")
	case diagnosis.ReplicaDeadLetters:
		if d.config.Actions.RetryAt != nil {
			return about("Retry there", "retry-at")
		}
	case diagnosis.BackfillStopped, diagnosis.BackfillLacks:
		if d.config.Actions.Backfill != nil {
			return about("Backfill", "backfill")
		}
	}
	return nil
}
