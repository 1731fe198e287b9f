// Command relay publishes the messages of an outbox, makes the tables, and says how things stand.
//
//	relay migrate --db postgres://…
//	relay run     --db postgres://… --broker amqp://…
//	relay status  --db postgres://…
//	relay lanes [set NUMBER] --db postgres://…
//	relay dead-letters list|show|retry|purge --db postgres://…
//	relay dead-letters list|show|dump|retry|purge --side replica --queue QUEUE --broker amqp://…
//	relay waiting list|retry|drop --db postgres://…
//	relay forget-deleted --model MODEL --older-than 4320h --db postgres://…
//
// It exits with the codes of package operate/exit: 0 done (run: after SIGINT or SIGTERM and a clean
// stop), 1 in part, 2 failed, 64 wrong usage. Passwords appear in no output.
//
// Neighbours: package relay does the work; this package is flags, wiring and exit codes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// the first signal asks for a clean stop, the second ends the process at once
	context.AfterFunc(ctx, restore)
	os.Exit(execute(ctx, os.Args, os.Stdout, os.Stderr))
}
