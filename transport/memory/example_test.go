package memory_test

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport/memory"
)

func Example() {
	broker := memory.New()
	webhooks, stats := broker.Subscriber("webhooks"), broker.Subscriber("stats")
	ctx := context.Background()
	toWebhooks, _ := webhooks.Subscribe(ctx, "order")
	toStats, _ := stats.Subscribe(ctx, "order")

	_ = broker.Publisher().Publish("order", message.NewMessage("1", []byte("an order")))

	for name, messages := range map[string]<-chan *message.Message{"webhooks": toWebhooks, "stats": toStats} {
		msg := <-messages
		fmt.Printf("%s: %s\n", name, msg.Payload)
		msg.Ack()
	}
	_, _ = webhooks.Close(), stats.Close()
	// Unordered output:
	// webhooks: an order
	// stats: an order
}
