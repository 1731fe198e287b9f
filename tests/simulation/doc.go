// Package simulation runs whole relays over an outbox in memory and a broker of its own, in the
// virtual time of testing/synctest: thousands of schedules of faults in a minute, each of which a
// seed names and repeats.
//
// A schedule says who writes what and when, which relays come and go, and what becomes of each
// request and each message: schedule.go. What happens is in world.go (the course of it),
// writers.go, process.go (a relay's process and its way to the database) and network.go (its way to
// the broker). checker.go knows only what was committed and what arrived, and judges that;
// restored.go says what can be asked of a database that went back.
//
// No two things happen at one instant, because every request takes a time of its own. So the same
// seed makes the same course, whatever the machine does.
package simulation
