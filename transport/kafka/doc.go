// Package kafka is the transport over Apache Kafka.
package kafka
