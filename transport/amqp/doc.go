// Package amqp is the RabbitMQ transport: Watermill's Publisher and Subscriber with package
// transport's further abilities, on watermill-amqp's configuration, marshaler and topology types.
//
//	config, err := amqp.NewConfig("amqp://user:password@host:5672/vhost?mandatory=true", "webhooks")
//	publisher, err := amqp.NewPublisher(config)
//	subscriber, err := amqp.NewSubscriber(config)
//
// # Topology
//
// One durable topic exchange; the routing key is the topic. Queue Q is durable, bound to <topic>
// and to cqrs.Q.<topic> (transport.DirectTopic). Beside it stands dead_letter_Q, bound to
// cqrs.dead_letter_Q.<topic>. It is django-cqrs's topology, argument for argument, so that services
// of both kinds share exchange and queues. Publisher and Subscriber declare what they need, again
// after every reconnect.
//
// With NewInboxConfig a subscriber has one queue per topic, called like it and bound to nothing
// else, that the broker keeps small: the inbox of a master.
//
// # URL
//
// Scheme amqp or amqps, virtual host as the path ("/" when there is none). Of a cluster all nodes
// may be named, as in amqp://user:password@a:5672,b:5672/vhost: a client begins at any, and takes
// another one when that does not answer; connection_timeout is for all together. Options of this
// package:
//
//	exchange         name of the exchange; default cqrs
//	queue_type       classic (default, what django-cqrs declares) or quorum
//	mandatory        true: a message that no queue takes is an error, transport.ErrUnroutable;
//	                 false (default): it counts as published, is counted (see
//	                 Publisher.Unroutable), and the first one of a topic is logged
//	declare          true (default): exchanges, queues and bindings are declared; false: they
//	                 are there, and the user needs no permission to configure them
//	connections      how many connections a publisher has at most; default 16. Where the broker
//	                 allows fewer, it does with those it gets
//	confirm_timeout  how long the broker may leave a message unconfirmed, or publishers blocked;
//	                 default 30s
//	window           how many messages may be unconfirmed at once; default 1000
//
// RabbitMQ's own are passed on: certfile, keyfile, cacertfile, server_name_indication,
// auth_mechanism, heartbeat (in seconds; default 10), connection_timeout (in milliseconds; default
// 10000) and channel_max. Any other is an error.
//
// # Promises
//
// The publisher reports a message as published only after the broker confirmed it (P5), keeps the
// order within a call (P4), and when the broker refuses one message, or one routing key or
// exchange, finds out which (P9). The subscriber holds at most a window of messages (P10), survives
// lost connections, and delivers whatever arrives: what a message means is the replica's affair.
//
// Neighbours: transport defines the interfaces, transport/open chooses this package by URL.
package amqp
