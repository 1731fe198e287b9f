package otelcqrs

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
)

// The names of attributes stand in this file only: those of the messaging conventions are "in
// development" and may change with semconv's version.

// schemaURL says by which version of the conventions the names are meant.
const schemaURL = semconv.SchemaURL

// The operations: what spans are called by, and their messaging.operation.name.
const (
	opPublish = "publish"
	opProcess = "process"
	opHandle  = "handle"
)

// Ours, where the conventions have no word.
const (
	modelKey    = attribute.Key("cqrsync.model")
	keyKey      = attribute.Key("cqrsync.key")
	revisionKey = attribute.Key("cqrsync.revision")
	signalKey   = attribute.Key("cqrsync.signal")
)

func (t *Tracing) publishing(topic string, messages int) []attribute.KeyValue {
	attributes := []attribute.KeyValue{
		semconv.MessagingOperationName(opPublish), semconv.MessagingOperationTypeSend,
		semconv.MessagingBatchMessageCount(messages),
	}
	if topic != "" {
		attributes = append(attributes, semconv.MessagingDestinationName(topic))
	}
	return append(attributes, t.system...)
}

func (t *Tracing) processing(queue, model string, messages int) []attribute.KeyValue {
	attributes := []attribute.KeyValue{
		semconv.MessagingOperationName(opProcess), semconv.MessagingOperationTypeProcess,
		semconv.MessagingBatchMessageCount(messages),
		semconv.MessagingDestinationName(queue), semconv.MessagingConsumerGroupName(queue),
	}
	if model != "" {
		attributes = append(attributes, modelKey.String(model))
	}
	return append(attributes, t.system...)
}

func system(name string) []attribute.KeyValue {
	if name == "" {
		return nil
	}
	return []attribute.KeyValue{semconv.MessagingSystemKey.String(name)}
}
