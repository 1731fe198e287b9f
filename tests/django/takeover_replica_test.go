//go:build unix

package django

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

// manifests describe the tables that Django made. In a SQLite file it keeps a UUID in char(32),
// without hyphens.
const (
	copiesYAML = `models:
  account: {table: search_account}
  publisher: {table: search_publisher}
  article: {table: search_article}
  book:
    table: search_book
    map: {publisher_id: publisher}
`
	copiesWithDevicesYAML = copiesYAML + "  device: {table: search_device}\n"
	copiesInFileYAML      = copiesYAML + "  device: {table: search_device, types: {id: uuid}}\n"
)

var models = []string{"account", "publisher", "book", "device", "article"}

func (d deployment) write(name, text string) string {
	path := filepath.Join(d.folder, name)
	require.NoError(d, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// replicate starts the relay command as the replica.
func (d deployment) replicate(name, config string) *process {
	ctx := context.WithoutCancel(d.Context())
	return start(d.T, "relay replicate of "+name, exec.CommandContext(ctx, d.relay, //nolint:gosec // ours
		"replicate", "--db", d.databases[name], "--broker", d.brokerURL(), "--config", config))
}

// late is a message that a worker could not apply and kept for another try: when it ends, the
// broker delivers it again, after newer ones of its key that were applied.
const late = `{"signal_type":"SAVE","cqrs_id":"publisher","instance_data":{"id":101,` +
	`"name":"long ago","cqrs_revision":0,"cqrs_updated":"2020-01-01 00:00:00+00:00"},` +
	`"previous_data":null,"instance_pk":101,"correlation_id":null,"retries":3,"expires":null,"meta":{}}`

// traffic goes on while workers stop and cqrsync starts.
const traffic = `
for i in range(200):
    row = Account.objects.get(id=[101, 102, 201, 204][i % 4])
    row.points = i
    row.save()
    if i % 10 == 0:
        Account.objects.create(id=10000 + i, name='meanwhile')
    if i % 20 == 10:
        Account.objects.get(id=10000 + i - 10).delete()
`

// goTakesReplicasOver stops Django workers while messages come, and goes on with their queues and
// tables.
func goTakesReplicasOver(
	t *testing.T, d deployment, w watcher, masters map[string]*actor, workers map[string]*process,
) {
	configs := map[string]string{
		taken: d.write("taken.yaml", "queue: "+d.queue(taken)+"\n"+copiesWithDevicesYAML),
		file:  d.write("file.yaml", "queue: "+d.queue(file)+"\n"+copiesInFileYAML),
	}
	if workers[maria] != nil {
		configs[maria] = d.write("maria.yaml", "queue: "+d.queue(maria)+"\n"+copiesWithDevicesYAML)
	}
	masters[rabbit].tell(t, traffic)
	for name := range configs {
		workers[name].stop()
		require.NoError(t, d.channel(func(channel *amqp091.Channel) error {
			topic := "cqrs." + d.queue(name) + ".publisher"
			return channel.PublishWithContext(t.Context(), d.exchange, topic, true, false,
				amqp091.Publishing{ContentType: "text/plain", Body: []byte(late)})
		}))
	}
	masters[kombu].do(t, "N = 300"+everyKind)
	for name, config := range configs {
		d.in(t).run(0, "migrate", "--side", "replica", "--db", d.databases[name])
		d.in(t).loadHeld(name, config)
		d.replicate(name, config)
	}
	masters[rabbit].answer(t)
	masters[kombu].do(t, "N = 400"+everyKind)
	w.awaitEqual(t, w.replicas...)
}

// loadHeld tells the ledger what the tables hold, so that it knows the late message for one.
func (d deployment) loadHeld(name, config string) {
	cmd := d.manage(d.Context(), "shell", "-v0")
	script, err := os.Open("held.py")
	require.NoError(d, err)
	defer func() { require.NoError(d, script.Close()) }()
	cmd.Stdin, cmd.Dir = script, d.TempDir()
	cmd.Env = append(os.Environ(), d.variables("search", name)...)
	output, err := cmd.CombinedOutput()
	require.NoError(d, err, "%s", output)
	for _, model := range models {
		held := filepath.Join(cmd.Dir, model+".held")
		d.run(0, "load", "--db", d.databases[name], "--config", config, "-i", held)
	}
}
