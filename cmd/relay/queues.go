package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport/open"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

func (o *options) queuesCommand() *cli.Command {
	broker := o.brokerFlag("the broker's file: sqlite://FILE")
	return &cli.Command{
		Name: "queues",
		Usage: "see the queues of a SQLite broker, and remove those of replicas that are gone " +
			"for good",
		Commands: []*cli.Command{
			{
				Name:  "list",
				Usage: "show the queues: what waits in them, since when, and who reads them",
				Flags: []cli.Flag{broker, &cli.BoolFlag{Name: "json",
					Usage: "a JSON line for each instead of a table"}},
				Action: o.listQueues,
			},
			{
				Name:      "remove",
				ArgsUsage: "QUEUE",
				Usage:     "remove a queue and what waits in it; refused while a replica reads it",
				Flags:     []cli.Flag{broker},
				Action:    o.removeQueue,
			},
		},
	}
}

// queueObject is what queues list --json prints of each. Names are never changed, only added.
type queueObject struct {
	Queue         string   `json:"queue"`
	Topics        []string `json:"topics"`
	Waiting       int64    `json:"waiting"`
	OldestSeconds float64  `json:"oldest_seconds"`
	Consumers     int64    `json:"consumers"`
}

func (o *options) brokerFile() (string, error) {
	if o.broker == "" {
		return "", brokerSetting.wrong(errors.New("not set, want sqlite://FILE"))
	}
	path, err := open.SQLiteFile(o.broker)
	if err != nil {
		err = fmt.Errorf("%w; queues of RabbitMQ: rabbitmqctl list_queues and delete_queue", err)
	}
	return path, brokerSetting.wrong(err)
}

func (o *options) listQueues(ctx context.Context, cmd *cli.Command) error {
	path, brokerErr := o.brokerFile()
	if err := exit.Wrong(noArguments(cmd), brokerErr); err != nil {
		return err
	}
	queues, err := sqlite.Queues(ctx, path)
	if err != nil {
		return err
	}
	age := func(q sqlite.QueueInfo) time.Duration {
		if q.Oldest.IsZero() {
			return 0
		}
		return time.Since(q.Oldest)
	}
	if cmd.Bool("json") {
		encoder := json.NewEncoder(cmd.Root().Writer)
		for _, q := range queues {
			object := queueObject{q.Name, q.Topics, q.Waiting, age(q).Seconds(), q.Consumers}
			if err := encoder.Encode(object); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(cmd.Root().Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "QUEUE\tWAITING\tOLDEST\tCONSUMERS\tTOPICS")
	for _, q := range queues {
		var topics []string
		for _, topic := range q.Topics {
			if !strings.HasPrefix(topic, "cqrs."+q.Name+".") { // each has one for itself
				topics = append(topics, topic)
			}
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\n",
			q.Name, q.Waiting, age(q).Round(time.Second), q.Consumers, strings.Join(topics, " "))
	}
	return table.Flush()
}

func (o *options) removeQueue(ctx context.Context, cmd *cli.Command) error {
	path, brokerErr := o.brokerFile()
	var nameErr error
	if cmd.Args().Len() != 1 {
		nameErr = errors.New("give the name of one queue, as relay queues list shows it")
	}
	if err := exit.Wrong(nameErr, brokerErr); err != nil {
		return err
	}
	queue := cmd.Args().First()
	dropped, err := sqlite.RemoveQueue(ctx, path, queue)
	if errors.Is(err, sqlite.ErrNoQueue) {
		return fmt.Errorf("%w in %s: see relay queues list", err, path)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.Root().Writer, "removed the queue %s and %d messages that waited in it\n",
		queue, dropped)
	return nil
}
