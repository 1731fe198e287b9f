package monitor

import (
	"context"
	"fmt"
	"time"
)

// Ready returns nil while the relay makes progress, and else what keeps it from doing so.
func (m *Monitor) Ready(ctx context.Context) error {
	p, err := m.progress.get(ctx, m.watched.Load())
	if err != nil {
		return fmt.Errorf("the state of the outbox is not known: %w", err)
	}
	if p.Own == 0 && p.Owned < p.Lanes {
		return fmt.Errorf("it owns no lane, and %d of %d have no live owner", p.Lanes-p.Owned,
			p.Lanes)
	}
	if p.OrphanAge > m.config.StuckAfter {
		return fmt.Errorf("%d of %d lanes have no live owner, and their oldest message has waited "+
			"for %s",
			p.Lanes-p.Owned, p.Lanes, p.OrphanAge.Round(time.Second))
	}
	if err := m.queuesMissing(); err != nil {
		return err
	}
	out := m.published.outage.Load()
	if p.Own == 0 && out != nil {
		return fmt.Errorf("it owns no lane: the broker has been away for %s: %w",
			time.Since(out.since).Round(time.Second), out.err)
	}
	silence := m.silence()
	if p.OldestAge <= m.config.StuckAfter || silence <= m.config.StuckAfter {
		return m.contact.lost(ctx, m.lastConfirm(), m.config.StuckAfter, m.config.QueryTimeout)
	}
	reason := fmt.Errorf("its oldest message has waited for %s and no batch was confirmed for %s",
		p.OldestAge.Round(time.Second), silence.Round(time.Second))
	if out != nil {
		return fmt.Errorf("%w: the broker has been away for %s: %w", reason,
			time.Since(out.since).Round(time.Second), out.err)
	}
	return reason
}

// silence is how long no message was confirmed.
func (m *Monitor) silence() time.Duration {
	if last := m.lastConfirm(); !last.IsZero() {
		return time.Since(last)
	}
	return time.Since(m.started)
}

// lastConfirm is when the broker last confirmed a message, zero if it never did.
func (m *Monitor) lastConfirm() time.Time {
	if at := m.published.lastConfirm.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}
