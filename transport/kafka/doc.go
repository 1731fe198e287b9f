// Package kafka is the transport over Apache Kafka: Watermill's Publisher and Subscriber with
// package transport's further abilities.
//
//	import _ "github.com/cqrsync/cqrsync/transport/kafka" // package open then knows kafka:// URLs
//
// # Topology
//
// Each topic of cqrsync's that is broadcast is a topic of Kafka's, and so is what is for one queue
// alone (transport.DirectTopic). What a name cannot hold is written as -x and two digits.
//
//	cqrs.order                         messages of the model order, for all queues; the key of a
//	                                   record is that of the row
//	cqrs-queue.webhooks                messages for the queue webhooks alone, of all models; the key
//	                                   is the model's name and the row's key
//	cqrs-queue.dead_letter_webhooks    its dead letters; each has a key of its own, and is removed by
//	                                   a record of that key without a value
//	cqrs.cqrsync.master.order          the inbox of a master
//	cqrs-notes                         nothing; what is known of queues stands beside its offsets
//
// A queue is a consumer group, cqrs.webhooks, whose members are the processes of one service. What
// the queue is bound to are the topics of which the group cqrs-bound.webhooks has offsets: from
// these on messages are for the queue. It has no members, so it can be written to at any time.
// Beside an offset of the group stand the messages behind it that are acknowledged already: no
// other process gets them again. To delete a queue, delete both groups, and then the queue's own
// topics.
//
// The names of queues have no dots.
//
// # URL
//
//	kafka://user:password@host:9092,host2:9092?option=value
//
// kafkas:// is with TLS. Options:
//
//	prefix           what the names of topics and groups begin with; default cqrs
//	partitions       how many partitions a topic has, where this package makes it; default 6. As many
//	                 processes of one service can share its work. Inboxes and dead letters have one
//	replicas         how many brokers keep each message; default: as the brokers are configured. It,
//	                 retention and compact change nothing of what is there already
//	retention        how long a message stays, as in 168h; default: as the brokers are configured,
//	                 which is a week where nobody changed it
//	compact          true: topics of models keep the newest message of each key for ever, and no
//	                 others; and a new queue begins with these. Default false
//	mandatory        true (default): a message whose topic is not there, because no queue was ever
//	                 bound to it, is an error, transport.ErrUnroutable; false: it is dropped, counted
//	                 (see Publisher.Unroutable), and the first one of a topic is logged
//	declare          true (default): topics are made where they are missing; false: they are there
//	message_bytes    how large a message may be, at most what the brokers take; default 1000012
//	connections      how many calls are published at once, each by a client of its own; default 16
//	window           how many messages of a batch may be unconfirmed at once; default 1000
//	confirm_timeout  how long none of them may be confirmed; default 30s
//	connect_timeout  how long connecting, and a call to the brokers, may take; default 10s
//	lease            after how long without a sign of life the messages of a consumer go to another
//	                 one; default 30s. Brokers have limits (group.min.session.timeout.ms)
//	name             client id; default cqrsync-publisher, cqrsync-subscriber
//	sasl             how user and password log in: plain (default), scram-sha-256, scram-sha-512
//	cacertfile       file of the certificates that the brokers' are checked by; default: the system's
//	certfile, keyfile  files of a client's certificate and its key
//
// Any other is an error.
//
// # Promises
//
// A message is reported as published when all replicas that are in sync have it (P5, acks=all); how
// many these are at least is the topic's min.insync.replicas. Order is kept among the messages of
// one topic and key within a call (P4), and among those without a key; what the client sends again
// after a lost answer is stored once, and in its place. Partitions must not be added while messages
// wait: keys move to other ones. What was fetched from several partitions is handed out about as it
// was published.
//
// A message that is given back comes again before later ones of its partition that nobody had yet.
// When another process comes or goes, it gets partitions of which nothing is in hands, or what was
// for five seconds: what is still in work then comes again there.
//
// Expirations (transport.ExpirationKey) and the age of what is in an inbox are seen by who reads,
// by the clocks of publisher and reader.
//
// Neighbours: transport defines the interfaces, transport/driver makes it known to transport/open.
package kafka
