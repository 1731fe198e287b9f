// Package redis is the transport over Redis Streams: Watermill's Publisher and Subscriber with
// package transport's further abilities. The server must be of version 7.0 or later.
//
//	import _ "github.com/cqrsync/cqrsync/transport/redis" // package open then knows redis:// URLs
//
// # Topology
//
// A queue is a stream with one consumer group, and a topic the set of the queues that are bound
// to it. A message is copied into the streams of all queues of its topic at once, by a script,
// which says how many took it. Acknowledged messages are deleted from the stream, and no others
// are: it is never trimmed by length. Beside queue Q stands dead_letter_Q, in which a replica's
// dead letters wait.
//
// All keys begin with {cqrs}: so that a cluster keeps them in one slot.
//
//	{cqrs}:queue:Q       that the queue is there; to delete the queue, delete this key
//	{cqrs}:messages:Q    its stream
//	{cqrs}:returned:Q    which messages were given back
//	{cqrs}:expiring:Q    when those that wait expire
//	{cqrs}:consumers:Q   when each consumer was heard of last
//	{cqrs}:bound:T       the queues of topic T
//	{cqrs}:database:Q    which database is behind the queue
//	{cqrs}:wake:Q        no key, but a channel that says that there is something to do
//
// # URL
//
//	redis://user:password@host:6379/0?option=value
//
// rediss:// is with TLS, the path is the number of the database. Options:
//
//	prefix           what keys begin with; default {cqrs}:
//	mandatory        true (default): a message that no queue takes is an error,
//	                 transport.ErrUnroutable; false: it is dropped, counted (see
//	                 Publisher.Unroutable), and the first one of a topic is logged
//	connections      how many connections a publisher has at most; default 16
//	window           how many messages of a batch are sent before the answers are read; default
//	                 1000
//	confirm_timeout  how long the server may take for these; default 30s
//	connect_timeout  how long connecting, and any other call, may take; default 10s
//	lease            after how long without a sign of life the messages of a consumer go to another
//	                 one; default 30s
//	name             the name of the connections; default cqrsync-publisher, cqrsync-subscriber
//	cacertfile       file of the certificates that the server's is checked by; default: the system's
//	certfile, keyfile  files of a client's certificate and its key
//
// Any other is an error.
//
// # Promises
//
// A message is reported as published when the server has it in memory (P5). What that is worth
// is the server's configuration: without appendonly a restart loses what came since the last
// snapshot, with appendfsync everysec a second at most, with always nothing; a replica of the
// server that takes over has what it had got. Whoever connects to a server without appendonly is
// warned, and one that evicts keys when its memory is full is refused.
//
// Order is kept within a call (P4). What a consumer gives back, or had when it died, comes before
// what nobody had yet.
//
// Neighbours: transport defines the interfaces, transport/driver makes it known to transport/open.
package redis
