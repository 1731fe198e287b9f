package main

import (
	"context"
	"fmt"
	"net"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/dashboard"
	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// addDashboard adds the page of Orders and its replicas, on which everything may be done, because
// only who sits at the machine may look.
func (p *process) addDashboard(ctx context.Context, db *bun.DB) error {
	tables, err := admin.Open(db, admin.Config{})
	if err != nil {
		return fmt.Errorf("dashboard: %w", err)
	}
	page, err := dashboard.Handler(dashboard.Config{
		Tables: tables, Relay: p.relay,
		Actions: &dashboard.Actions{
			Resync: p.answerer.SendStates, RetryAt: p.answerer.RetryDeadLetters,
			PurgeAt: p.answerer.PurgeDeadLetters,
			Backfill: func(ctx context.Context, queue, model string) error {
				return p.answerer.OrderBackfill(ctx, converge.Backfill{Queue: queue, Model: model})
			},
		},
	})
	if err != nil {
		return err
	}
	p.runSubscribed(page.Run)
	p.runs = append(p.runs, func(ctx context.Context) error {
		diagnosis.Tell(ctx, tables, "the relay "+p.relay.ID(), p.waits, nil)
		return nil
	})
	_, err = p.listen(ctx, "dashboard", p.dashboardAddr, func(
		ctx context.Context, listener net.Listener,
	) error {
		return web.Serve(ctx, listener, page)
	})
	return err
}

// waits is what the relay of this process waits for, which nobody else can know.
func (p *process) waits() (all []admin.Outage) {
	for _, o := range p.relay.Outages() {
		all = append(all, admin.Outage{What: o.What, Since: o.Since, Error: o.Err.Error()})
	}
	return all
}
