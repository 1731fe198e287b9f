// Package converge lets replicas and their master talk over the broker that they share: so the
// master knows its replicas, how late each is, and heals what was lost on the way.
//
// A [Reporter] runs beside a replica. It reports every ten seconds, and asks for the state of keys
// that are not as the master has them. An [Answerer] runs beside a master's relay. It keeps the
// list of replicas, makes their queues before anything is published, sends heartbeats, and sends
// the states that are asked for, each to the one replica that asked.
//
// Each side may be missing: a replica whose master does not answer, an old one or django-cqrs's,
// lacks what is described here and nothing else, and the other way round. What replicas send goes
// to queues of the master's own, by model; what a master says goes to queues that have reported,
// and to no others, so a django-cqrs replica on the same exchange notices nothing.
//
// Nothing that a replica sends changes a row of the master's tables, or reads a model, a column or
// a row that its registration would not send.
//
// Neighbours: outbox and replica, whose registrations decide what is sent and
// applied; internal/registry keeps the list; transport carries it.
// docs/convergence.md is the page for operators.
package converge
