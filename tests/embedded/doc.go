// Package embedded tries what a newcomer runs: services, relays and replicas as processes of
// their own on SQLite files. They are killed, stopped, locked out, left without room and robbed
// of their files. At the end replica and master are equal, or a line in the log says what is
// lost, and a diff makes them equal.
//
//	go test ./tests/embedded                                          # less than a minute
//	go test ./tests/embedded -run Equal -v -timeout 2h -args -for 1h  # kills for an hour
//	go test ./tests/embedded -run Bounded -v -timeout 1h -args -for 30m
//
// The test of a full disk mounts a small file system, for which it needs root on Linux.
package embedded
