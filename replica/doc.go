// Package replica keeps a copy of another service's rows, from the messages that service sends.
//
// Register mirrors a model into a table; Handle calls a function instead. Both stand behind one gate: the revision of
// the key in the replica's ledger decides whether a message still means anything, and the ledger, the mirrored row
// and whatever the handler writes change in one transaction. So the package promises:
//
//   - P6: a message has exactly one effect. Duplicates, stale and reordered messages have none.
//   - P7: what is deleted stays deleted. A late save finds the tombstone in the ledger.
//   - P8: when the master stops writing, the replica becomes equal to it.
//   - P9: a message that can never be applied goes to replica_dead_letters, whole and with the reason, and the next
//     one is applied. A newer revision of the same key supersedes it.
//
// A message is acknowledged after the commit that applied or parked it, never before.
//
// Neighbours: envelope reads the message, internal/store keeps the ledger, a Watermill Subscriber (package transport
// has some) delivers. The master's side is package outbox; this package does not know it.
package replica
