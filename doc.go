// Package cqrsync keeps copies of a service's rows in the databases of other services, without ever
// losing, reordering or resurrecting one. This package holds no code: it says where to begin.
//
// # The pattern
//
// A service that owns a table is its master. In the transaction that changes a row, package outbox
// raises the row's revision in a ledger and appends a message to an outbox table, so a message
// exists if and only if the change was committed. A relay reads the outbox, publishes to a broker
// and deletes what the broker confirmed. A service that wants a copy is a replica: package replica
// applies each message and moves the revision of its key in one transaction, so duplicates and late
// messages have no effect. When writes stop, every copy equals the original, and package operate
// proves it.
//
// # Three roles
//
// Application code writes plain bun inside RunInTx:
//
//	box, err := outbox.New(db, outbox.Config{})
//	_ = outbox.Register[Order](box, "order")
//	err = box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
//		_, err := tx.NewInsert().Model(&Order{Status: "new"}).Exec(ctx)
//		return err
//	})
//
// Somebody runs the relay, in the master's process or as cmd/relay:
//
//	r, err := relay.New(db, publisher, relay.Config{})
//	err = r.Run(ctx)
//
// Replica services keep a table, or get a handler called:
//
//	rep, err := replica.New(db, replica.Config{Queue: "stats"})
//	_ = replica.Register[OrderCopy](rep, "order")
//	err = rep.Run(ctx, subscriber)
//
// # Where to go on
//
// README.md has the promises and a demo, ARCHITECTURE.md the rooms and the paths of the data, docs/
// a page for each question of operators. The wire format is that of django-cqrs (docs/wire.md).
package cqrsync
