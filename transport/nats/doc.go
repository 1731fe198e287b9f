// Package nats is the transport over NATS JetStream: Watermill's Publisher and Subscriber with
// package transport's further abilities. The servers must be of version 2.11 or later.
//
//	import _ "github.com/cqrsync/cqrsync/transport/nats" // package open then knows nats:// URLs
//
// # Topology
//
// One stream, called cqrs, takes all subjects that begin with its name. The subject of a message is
// the stream's name, a dot and the topic: cqrs.order, and cqrs.cqrs.webhooks.order for one queue
// alone (transport.DirectTopic). What a subject cannot hold is percent-encoded. The stream keeps a
// message once, until every queue that is bound to its topic has acknowledged it (interest
// retention), however long that takes, and nothing that no queue is bound to.
//
// A queue is a durable pull consumer of that stream. Its filter subjects are its bindings.
// Processes of one service share it. Beside it stands the consumer dead_letter_QUEUE, that
// nobody pulls: what a replica gave up waits there. What the name of a consumer cannot hold is
// percent-encoded.
//
// The stream cqrs_inbox has the inboxes of masters, a consumer each: topics that begin with
// cqrsync.master. and no others. The stream cqrs_notes has a word about each queue: which database
// is behind it, and who is changing its bindings.
//
// # URL
//
//	nats://user:password@host:4222,host2:4222?option=value
//
// A user without a password is a token. Options:
//
//	stream           name of the stream; default cqrs
//	replicas         how many servers of a cluster keep each message, 1 to 5; default 1. Of what is
//	                 there already it changes nothing
//	max_bytes        how large the stream may become; then messages are refused until there is room.
//	                 Default 0: as large as the server's disk allows
//	mandatory        true (default): a message that no queue takes is an error,
//	                 transport.ErrUnroutable; false: it is dropped, counted (see
//	                 Publisher.Unroutable), and the first one of a topic is logged
//	declare          true (default): streams and consumers are made where they are missing; false:
//	                 they are there
//	connections      how many connections a publisher has at most; default 16
//	window           how many messages of a batch may be unconfirmed at once; default 1000
//	confirm_timeout  how long a message may stay unconfirmed; default 30s
//	connect_timeout  how long connecting, and a call to the server, may take; default 10s
//	ack_wait         after how long without a sign of life the messages of a consumer go to another
//	                 one; default 30s. It is a property of the queue, set where that is made
//	name             the name of the connections; default cqrsync publisher, cqrsync subscriber
//	tls              true: with TLS. It is implied by the next ones
//	cacertfile       file of the certificates that the server's is checked by; default: the system's
//	certfile, keyfile  files of a client's certificate and its key
//	creds            file with a user's JWT and seed
//	nkey             file with a user's seed
//
// Any other is an error.
//
// # Promises
//
// In a cluster a client goes on at another server when its own dies or says nothing for nine
// seconds. After a second without a confirm a publisher asks who leads the stream: what was sent to
// a former leader is sent again. A consumer hears from its queue every two seconds.
//
// A message is reported as published when the stream has it (P5); what the server writes to its
// disk, and when, is the server's affair (sync_interval). Order is kept within a call (P4). A
// message that comes again after a nack, or after its consumer died, may come after later ones of
// its key: the replica's revision gate is for that. The server drops what it has seen within two
// minutes already, by the message's UUID (Nats-Msg-Id), of PublishBatch alone: what an operator
// sends again is never taken for a repetition.
//
// An expiration (transport.ExpirationKey) is rounded up to whole seconds.
//
// Neighbours: transport defines the interfaces, transport/driver makes it known to transport/open.
package nats
