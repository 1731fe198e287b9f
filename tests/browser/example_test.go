package browser

import (
	"bufio"
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
)

// The example serves the page of its three services, and prints where. Here the screenshots of the
// documentation are taken.
func TestTheExampleServesTheDashboard(t *testing.T) {
	b := open(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "orders")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program,
		"github.com/cqrsync/cqrsync/examples/orders").CombinedOutput()
	require.NoError(t, err, string(out))
	urls := runExample(t, program, "--dir", dir, "--orders-addr=127.0.0.1:0", "--webhooks-addr=127.0.0.1:0",
		"--stats-addr=127.0.0.1:0", "--inbox-addr=127.0.0.1:0", "--dashboard-addr=127.0.0.1:0")
	page := urls["dashboard"] + "/"
	for range 30 {
		order(t, urls["orders"], "Ada")
	}
	b.do(chromedp.Navigate(page))
	b.sees("Everything is moving. 2 replicas, all equal as of")
	b.sees("Kept fresh")
	b.accessible()
	b.do(chromedp.Navigate(page), chromedp.EmulateViewport(1000, 900))
	b.sees("Everything is moving.")
	b.shoot("overview")

	db, err := database.Open("sqlite://" + filepath.Join(dir, "stats.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	_, err = db.ExecContext(t.Context(), "CREATE TRIGGER strict BEFORE INSERT ON stats_orders "+
		"BEGIN SELECT RAISE(ABORT, 'the disk quota of stats is used up'); END")
	require.NoError(t, err)
	order(t, urls["orders"], "Grace")
	b.do(chromedp.Navigate(page + "stuck"))
	b.sees("the disk quota of stats is used up")
	b.do(chromedp.EmulateViewport(1000, 560))
	b.shoot("stuck")
	b.loads(page+"key?q=order+31", "order 31 is at revision")
	b.sees("but stats does not have it, because: ")
	b.sees("the disk quota of stats is used up")
	b.shoot("key")
	b.quiet()
}

// runExample starts the example, and returns the URLs that it prints.
func runExample(t *testing.T, program string, args ...string) map[string]string {
	ctx, stop := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, program, args...)
	reader, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { stop(); _ = command.Wait() }) // it was killed
	urls := map[string]string{}
	for lines := bufio.NewScanner(reader); lines.Scan() && !strings.HasPrefix(lines.Text(), "Ctrl-C"); {
		name, url, _ := strings.Cut(lines.Text(), " ")
		urls[name] = strings.TrimSpace(url)
	}
	require.NotEmpty(t, urls["dashboard"], urls)
	return urls
}

func order(t *testing.T, url, customer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/orders", strings.NewReader(
		`{"customer": "`+customer+`", "lines": [{"sku": "book", "quantity": 2, "price": 1250}]}`))
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusCreated, response.StatusCode)
}
