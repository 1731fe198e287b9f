// Command orders is cqrsync's example: a shop in three services, each with a database of its own.
//
//	Orders    the master: HTTP for orders and their lines; every committed change becomes a message
//	Webhooks  a replica with a handler: keeps a copy of each order and tells subscribers of it
//	Stats     a replica that mirrors a table: adds up orders per day and month
//
// Without arguments all three run in this process, with the relay between them and a subscriber to
// try Webhooks with, on SQLite files in a temporary folder. README.md spends an hour with them:
//
//	go run ./examples/orders
//
// The packages orders, webhooks and stats are what to read and to copy from: the function New in
// each is all of cqrsync that a service needs. Package demo proves that the copies are equal, under
// load and with the relay killed:
//
//	go run ./examples/orders demo --orders 2000 --kill-relay 5
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // time zones, also where the system has none
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the process at once.
	context.AfterFunc(ctx, stop)
	err := newCommand(os.Stdout, os.Stderr).Run(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}
