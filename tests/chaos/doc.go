// Package chaos runs masters, relays and replicas as processes, does to them what machines and
// networks do, and asks afterwards, from the outside, whether the promises P1 and P3 to P8 held.
//
//	go test ./tests/chaos -v                                  # a round of each setup: minutes
//	go test ./tests/chaos -v -timeout 9h -args -for 2h        # rounds, two hours of each setup
//	go test ./tests/chaos -v -args -seed 7 -setups handover -round 3    # one that was printed
//
// A round makes databases, an exchange and queues of its own, and draws its plan of faults from the
// seed, the setup and the round's number. The plan is printed, and the same seed makes the same
// one; where the processes are when a fault meets them is up to the machine, so that a round that
// failed may need to be tried again. The seed is drawn where none is given. -logs DIR keeps what
// the processes wrote; without it that of a round that failed stays in the temporary folder, with
// every message in the order in which the broker took it.
//
// # Who takes part
//
// Two writers of several threads, two relays, two replicas that mirror and two with a handler,
// competing for their queues; in the setup handover two services that write and relay in one
// process, and a relay beside them. All are this test's binary. They reach database and broker
// through TCP proxies, one for each kind of process and server.
//
//	postgres   PostgreSQL
//	mariadb    MariaDB
//	pgbouncer  PostgreSQL behind PgBouncer in transaction mode
//	handover   PostgreSQL, relay.Config.Handover
//
// The servers are the test's own, from Debian's packages (package servers), because they are
// stopped and killed. The variables CQRSYNC_TEST_POSTGRES, CQRSYNC_TEST_MARIADB and
// CQRSYNC_TEST_RABBITMQ say, as everywhere, whether tests of these are wanted; the servers that
// they name are not used.
//
// # What happens to them
//
// SIGKILL; SIGSTOP for longer than a lease, then SIGCONT; connections that are cut, are slow, hear
// nothing any more without being closed (half open, for seconds), or hear no answers; COMMITs whose
// answer is lost, and such that do not arrive; the database and the broker restarted, or killed and
// started again. Meanwhile a part of all messages comes to the replicas a second time, and late.
//
// # What is checked
//
// Each transaction of a writer locks a counter for each key, changes the row once or several times,
// and writes the counter's new value into the row and into a journal that commits with it. So the
// journal tells what committed, and in which order for each key. The writer says on its standard
// output what it was told. A queue of the test's own, the tap, receives what the broker was given.
// The replica with a handler counts the effects of each revision, in the handler's transaction. The
// checker (check_test.go) holds these against each other, and knows nothing of the library's
// tables:
//
//	P1  nothing of an uncommitted transaction was sent; a writer that was told "committed" or
//	    "rolled back" was told the truth; a key's revision is its transaction's place in the journal
//	P3  one message per key and transaction, with the state at its commit
//	P4  no revision left for the first time after a newer one of its key
//	P5  every committed revision left, or, of the model whose messages may be replaced, a newer one
//	P6  every revision that had an effect had one, none after that of a newer one, and all of it
//	P7  nothing that was deleted is there
//	P8  every replica equals the master, and every key's last revision had its effect
//
// The column letters counts dead letters and what still waits: trouble with servers makes none.
// Zero in every column passes. To show that the checker would have seen a fault, every history
// without one is broken in each way that checker_test.go knows, and each has to count.
package chaos
