package sqlite_test

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

// BenchmarkThroughput is the way of a 500-byte message from PublishBatch to
// its ack, by batch and window size.
func BenchmarkThroughput(b *testing.B) {
	for _, size := range []int{1, 100, 1000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "broker.db")
			sub, err := sqlite.NewSubscriber(sqlite.Config{Path: path, Queue: "webhooks"})
			require.NoError(b, err)
			defer func() { require.NoError(b, sub.Close()) }()
			messages, err := sub.SubscribeWindow(b.Context(), "order", size)
			require.NoError(b, err)
			pub, err := sqlite.NewPublisher(sqlite.Config{Path: path})
			require.NoError(b, err)
			defer func() { require.NoError(b, pub.Close()) }()
			batch := make([]transport.Outgoing, size)
			for i := range batch {
				batch[i] = transport.Outgoing{Topic: "order", Message: message.NewMessage("id", make([]byte, 500))}
			}
			b.ResetTimer()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range (b.N + size - 1) / size * size {
					msg := <-messages
					msg.Ack()
				}
			}()
			for range (b.N + size - 1) / size {
				for _, err := range pub.PublishBatch(b.Context(), batch) {
					require.NoError(b, err)
				}
			}
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
