// Package replica keeps a copy of another service's rows, from the messages that service sends.
//
// Register mirrors a model into a table; Handle, HandleBatch and HandleFunc call a function
// instead. All stand behind one gate: the revision of the key in the replica's ledger decides
// whether a message still means anything, and the ledger, the mirrored row and whatever the handler
// writes change in one transaction. So the package promises:
//
//   - P6: a message has exactly one effect. Duplicates, stale and reordered messages have none.
//   - P7: what is deleted stays deleted. A late save finds the tombstone in the ledger.
//   - P8: when the master stops writing, the replica becomes equal to it.
//   - P9: a message that cannot be applied yet waits in replica_waiting, one that never can goes to
//     replica_dead_letters, whole and with the reason. The others are applied, and a newer revision
//     of the same key supersedes it.
//   - P10: what is held in memory is bounded by Config.Window, whatever the backlog.
//
// A message is acknowledged after the commit that applied or kept it, never before.
//
// How a batch goes: delivery.go reads a message, inbox.go gathers by key, batch.go is the
// transaction, chain.go and gate.go decide about a key, applier.go, plan.go and mirror_write.go
// write, failures.go and waiting.go keep what failed. What becomes of a delivery in one transaction
// is an attempt.
//
// Neighbours: envelope reads the message, internal/applied keeps the ledger, a Watermill Subscriber
// (package transport has some) delivers. The master's side is package outbox; this package does not
// know it.
package replica
