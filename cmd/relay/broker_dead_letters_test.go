package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

func TestDeadLettersOfADjangoReplicaAreListedDumpedRetriedAndPurged(t *testing.T) {
	for _, dead := range []string{"dead_letter_", "graveyard_"} {
		t.Run(dead, func(t *testing.T) {
			t.Parallel()
			r := newDjangoReplica(t, dead)
			require.Equal(t, result{stdout: "no dead letters\n"}, r.relay("list"))
			bodies := []string{
				letter("order", 1, past), letter("order", 2, "null"), letter("customer", 3, past), "not JSON \xff", "{\n\"cqrs_id\":\"order\"}",
			}
			r.bury(bodies...)

			list := r.relay("list")
			require.Zero(t, list.code, list.stderr)
			require.Regexp(t, `^ID +MODEL +KEY +REVISION +RETRIES +ERROR\n\d+ +order +1 +3 +30 *\n\d+ +order +2 .*\n\d+ +customer +3 .*\n`+
				`\d+ +\? +\? *\n\d+ +order +\? +\? *\n$`, list.stdout)
			r.waits(r.dead, 5)
			require.Equal(t, list, r.relay("list"), "the same in the same order")
			ids := make([]string, 0, 5)
			for line := range strings.Lines(r.relay("list", "--json").stdout) {
				var object struct {
					ID    json.Number
					Queue string
				}
				require.NoError(t, json.Unmarshal([]byte(line), &object))
				require.Equal(t, r.dead, object.Queue)
				require.NotContains(t, line, "dead\":\"0001")
				ids = append(ids, object.ID.String())
			}
			first := r.relay("list", "--limit", "2").stdout
			require.Contains(t, first, "there may be more: --after "+ids[1]+"\n")
			rest := r.relay("list", "--after", ids[1])
			require.Equal(t, 4, strings.Count(rest.stdout, "\n"), rest.stdout)
			require.NotContains(t, rest.stdout, ids[1])
			require.Equal(t, exit.Differ, r.relay("list", "--after", "1").code)

			show := r.relay("show", "--id", ids[0], "--id", ids[3])
			require.Zero(t, show.code, show.stderr)
			require.Contains(t, show.stdout, `\"price\":1.10`)
			require.Contains(t, show.stdout, `"body_base64": "bm90IEpTT04g/w=="`)
			require.Equal(t, result{exit.Differ, "", "1 of 1 ids are no dead letters\n"}, r.relay("show", "--id", "1"))
			require.Equal(t, exit.Usage, r.relay("show").code)

			dump := r.relay("dump")
			require.Equal(t, exit.Differ, dump.code)
			require.Equal(t, strings.Join(bodies[:3], "\n")+"\n{ \"cqrs_id\":\"order\"}\n", dump.stdout)
			require.Equal(t, ids[3]+": left out, it is not a JSON object in UTF-8\n"+
				"1 dead letters were left out: relay dead-letters show has them\n", dump.stderr)
			require.Equal(t, result{stdout: bodies[2] + "\n"}, r.relay("dump", "--model", "customer"))
			r.waits(r.dead, 5)
			require.Empty(t, r.drain(r.queue))

			begun := time.Now()
			retry := r.relay("retry", "--all")
			require.Equal(t, exit.Differ, retry.code)
			require.Contains(t, retry.stderr, "3 dead letters stay")
			require.Contains(t, retry.stdout, ids[0]+": sent to "+r.queue+"\n"+ids[1]+": sent to "+r.queue+"\n"+ids[2]+": ")
			require.Contains(t, retry.stdout, ids[2]+": send a dead letter to cqrs."+r.queue+".customer: no queue is bound to the topic: start the replica "+
				r.queue+" once with the model customer, or correct --queue")
			require.Contains(t, retry.stdout, ids[3]+": unreadable message: body: not UTF-8\n"+ids[4]+": unreadable message: signal_type: missing\n")
			sent := r.drain(r.queue)
			require.Len(t, sent, 2)
			var again struct{ Expires time.Time }
			require.NoError(t, json.Unmarshal(sent[0].Body, &again))
			require.WithinRange(t, again.Expires, begun.Add(24*time.Hour-time.Second), time.Now().Add(24*time.Hour))
			fresh := strings.Replace(bodies[0], `"retries":30`, `"retries":0`, 1)
			require.Equal(t, strings.Replace(fresh, past, again.Expires.Format(`"2006-01-02T15:04:05+00:00"`), 1), string(sent[0].Body))
			require.Equal(t, strings.Replace(bodies[1], `"retries":30`, `"retries":0`, 1), string(sent[1].Body))
			for _, m := range sent {
				require.Equal(t, "cqrs."+r.queue+".order", m.RoutingKey)
				require.Equal(t, "text/plain", m.ContentType)
				require.Equal(t, amqp091.Persistent, m.DeliveryMode)
				require.Empty(t, m.Headers)
				require.Empty(t, m.Expiration)
			}

			require.Equal(t, exit.Usage, r.relay("purge").code, "only with being asked")
			r.waits(r.dead, 3)
			require.Equal(t, result{stdout: "1 purged\n"}, r.relay("purge", "--id", ids[3]))
			r.waits(r.dead, 2)
			require.Equal(t, result{stdout: "{\"purged\":2}\n"}, r.relay("purge", "--all", "--json"))
			require.Equal(t, result{stdout: "no dead letters\n"}, r.relay("list"))
			require.Equal(t, result{exit.Differ, "", "no dead letter was found\n"}, r.relay("retry", "--all"))
		})
	}
}

// What a Go replica gave up is mended, sent again and applied; what nobody can read is in its
// database.
func TestDeadLettersThatAGoReplicaPublishedAreSentAgain(t *testing.T) {
	t.Parallel()
	r := newDjangoReplica(t, "dead_letter_")
	discard := open.Options{Logger: slog.New(slog.DiscardHandler)}
	publisher, err := open.Publisher(r.url, discard)
	require.NoError(t, err)
	defer func() { require.NoError(t, publisher.Close()) }()
	subscriber, err := open.Subscriber(r.url, r.queue, discard)
	require.NoError(t, err)
	defer func() { require.NoError(t, subscriber.Close()) }()
	require.NoError(t, subscriber.(message.SubscribeInitializer).SubscribeInitialize("order"))
	url := dbtest.SQLiteURL(t)
	rep, err := replica.New(dbtest.Open(t, url), replica.Config{Queue: r.queue, DeadLetters: publisher, Logger: discard.Logger})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	var broken atomic.Bool
	broken.Store(true)
	type order struct {
		ID    int64
		Price string
	}
	require.NoError(t, replica.HandleFunc(rep, "order", func(_ context.Context, e replica.Event[order]) error {
		if broken.Load() {
			return replica.Permanent(errors.New("no such price list"))
		}
		return nil
	}))
	delivery := message.NewMessage("id", []byte(letter("order", 7, "null")))
	delivery.Metadata = message.Metadata{"cqrs_key": "7", "traceparent": "00-ab"}
	require.NoError(t, rep.Handler()(delivery))
	require.NoError(t, rep.Handler()(message.NewMessage("", []byte(`{"cqrs_id":"order","instance_pk":8}`))))

	list := r.relay("list")
	require.Regexp(t, `\n\d+ +order +7 +3 +0 +.*no such price list`, list.stdout)
	require.Equal(t, 2, strings.Count(list.stdout, "\n"), "the other one is not there: %s", list.stdout)
	list = invoke(t.Context(), "dead-letters", "list", "--side", "replica", "--db", url)
	require.Regexp(t, `\n1 +order +8 +\? +20\S+Z +unreadable message`, list.stdout)

	broken.Store(false)
	r.waits(r.dead, 1)
	retry := r.relay("retry", "--key", "7", "--json")
	require.Zero(t, retry.code, retry.stderr)
	require.Contains(t, retry.stdout, `"model":"order","key":"7","revision":3,"retried":true`)
	sent := r.drain(r.queue)
	require.Len(t, sent, 1)
	require.Equal(t, "00-ab", sent[0].Headers["traceparent"])
	require.NotContains(t, sent[0].Headers, "cqrsync_error")
	again := message.NewMessage(sent[0].MessageId, sent[0].Body)
	again.Metadata.Set("cqrs_key", sent[0].Headers["cqrs_key"].(string))
	require.NoError(t, rep.Handler()(again))
	require.EqualValues(t, 1, rep.Stats().Applied)
	require.Equal(t, result{stdout: "no dead letters\n"}, r.relay("list"))
}

// Killed at any moment, a retry has lost nothing: at worst the letter that it was at is there
// twice.
func TestARetryThatIsKilledLosesNoLetter(t *testing.T) {
	t.Parallel()
	r := newDjangoReplica(t, "dead_letter_")
	const letters = 1500 // of which the pipe takes the lines of some 600
	bodies := make([]string, letters)
	for i := range bodies {
		bodies[i] = letter("order", i, "null")
	}
	r.bury(bodies...)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "dead-letters", "retry", "--side", "replica", "--queue", r.queue,
		"--broker", r.url, "--all", "--json")
	cmd.Env = append(os.Environ(), asRelay+"=1")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(io.LimitReader(stdout, 4096))
	require.True(t, lines.Scan())
	require.Contains(t, lines.Text(), `"retried":true`)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())

	r.waits(r.queue, func() (there int) { // what it sent last may still arrive
		require.Eventually(t, func() bool {
			state, err := r.channel.QueueDeclarePassive(r.dead, true, false, false, false, nil)
			require.NoError(t, err)
			before := there
			live, err := r.channel.QueueDeclarePassive(r.queue, true, false, false, false, nil)
			require.NoError(t, err)
			there = live.Messages
			return there == before && state.Messages+there >= letters
		}, patience, 50*time.Millisecond)
		return there
	}())
	sent, dead := keysOf(t, r.drain(r.queue)), keysOf(t, r.drain(r.dead))
	require.NotEmpty(t, sent)
	require.NotEmpty(t, dead, "it was killed in the middle")
	require.LessOrEqual(t, len(sent)+len(dead), letters+1)
	for i, key := range sent {
		require.Equal(t, i, key)
	}
	for i, key := range dead {
		require.Equal(t, letters-len(dead)+i, key)
	}
}

func keysOf(t *testing.T, deliveries []amqp091.Delivery) (keys []int) {
	t.Helper()
	for _, d := range deliveries {
		var body struct {
			PK int `json:"instance_pk"`
		}
		require.NoError(t, json.Unmarshal(d.Body, &body))
		keys = append(keys, body.PK)
	}
	return keys
}

func TestDeadLettersOnABrokerAreNamedInFull(t *testing.T) {
	const broker = " --broker amqp://127.0.0.1:1/"
	for line, want := range map[string]string{
		"list --queue q": "only with --side replica",
		"list --side replica --dead-letter-queue d" + broker:               "--queue: not set",
		"list --side replica --queue q":                                    "--broker (or CQRSYNC_BROKER): not set",
		"list --side replica --queue= " + broker:                           "--queue: not set",
		"list --side replica --queue q --dead-letter-queue q" + broker:     "is the replica's own queue",
		"list --side replica --queue q --dead-letter-queue=" + broker:      "it is empty",
		"list --side replica --queue q --older-than 1h" + broker:           "a broker does not know how old",
		"list --side replica --queue q --limit -1" + broker:                "--limit: -1",
		"retry --side replica --queue q" + broker:                          "choose which",
		"purge --side replica --queue q --all --model order" + broker:      "choose which",
		"list --side replica --queue q --broker sqlite://broker.db":        "has no queue of dead letters",
		"list --side replica --queue q --broker nonsense://user:s3cret@h/": "unknown scheme",
		"dump": "dump is for --side replica",
	} {
		t.Run(line, func(t *testing.T) {
			t.Chdir(t.TempDir())
			r := invoke(t.Context(), append([]string{"dead-letters"}, strings.Fields(line)...)...)
			require.Equal(t, exit.Usage, r.code, r.stderr)
			require.Contains(t, r.stderr, want)
			require.NotContains(t, r.stderr, "s3cret")
			require.Empty(t, r.stdout)
		})
	}
	r := invoke(t.Context(), strings.Fields("dead-letters list --side replica --queue q"+broker)...)
	require.Equal(t, exit.Failed, r.code)
	require.Contains(t, r.stderr, "broker unavailable")

	django := newDjangoReplica(t, "graveyard_")
	r = invoke(t.Context(), "dead-letters", "list", "--side", "replica", "--queue", django.queue, "--broker", django.url)
	require.Equal(t, exit.Failed, r.code)
	require.Contains(t, r.stderr, "queue dead_letter_"+django.queue+": the broker has no such queue: correct --queue")
}

// CQRSYNC_QUEUE says who a replica is, and does not send a command for its database to the broker.
func TestTheQueueOfTheEnvironmentChoosesNoBroker(t *testing.T) {
	t.Setenv("CQRSYNC_QUEUE", "webhooks")
	t.Setenv("CQRSYNC_BROKER", "amqp://127.0.0.1:1/")
	replica := tables(t, "replica")
	require.Equal(t, result{stdout: "no dead letters\n"}, invoke(t.Context(), on(replica, "dead-letters", "list", "--side", "replica")...))
}
