package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	transports "github.com/cqrsync/cqrsync/transport/open"
)

// The stock binary lets who may act cure what is stuck, and a keyboard is enough for it: nobody
// takes a model, a queue for it is made, and the message is retried from the page.
func TestTheKeyboardAloneCuresThroughTheStockBinary(t *testing.T) {
	s := start(t)
	b := open(t)
	b.do(chromedp.Navigate(s.stock("--ui-actions", "--patience", "1s")))
	b.sees("Everything is moving.")
	s.save(&Parcel{ID: 7})
	b.sees("parcel 7 waits for")
	subscriber, err := transports.Subscriber(s.broker, "parcels-"+s.queue, transports.Options{Logger: silently})
	require.NoError(t, err)
	parcels, err := subscriber.Subscribe(t.Context(), "parcel")
	require.NoError(t, err)
	b.enter("Retry")
	b.sees("What waits is tried again at once")
	b.enter("Retry now")
	b.sees("1 message tried again now")
	select {
	case m := <-parcels:
		require.Equal(t, "7", m.Metadata.Get("cqrs_key"))
		m.Ack()
	case <-time.After(patience):
		require.FailNow(t, "it does not arrive")
	}
	require.NoError(t, subscriber.Close())
	b.enter("Overview")
	b.sees("Everything is moving.")
	b.enter("What was done")
	b.sees("retry 1 message such as parcel 7")
	b.quiet()
}

// stock runs the stock binary's relay, and returns where its dashboard is.
func (s *system) stock(flags ...string) (page string) {
	s.Helper()
	program := filepath.Join(s.TempDir(), "relay")
	out, err := exec.CommandContext(s.Context(), "go", "build", "-o", program,
		"github.com/cqrsync/cqrsync/cmd/relay").CombinedOutput()
	require.NoError(s, err, string(out))
	ctx, stop := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, program, append([]string{"run", "--db", s.masterURL,
		"--broker", s.broker + "&mandatory=true", "--ui", "127.0.0.1:0"}, flags...)...)
	log, err := command.StderrPipe()
	require.NoError(s, err)
	require.NoError(s, command.Start())
	ended := make(chan struct{})
	s.Cleanup(func() { stop(); <-ended; _ = command.Wait() }) // it was killed
	address := regexp.MustCompile(`msg=dashboard address=(\S+)`)
	found := make(chan string, 1)
	go func() {
		defer close(ended)
		var said []string
		for lines := bufio.NewScanner(log); lines.Scan(); {
			said = append(said, lines.Text())
			if at := address.FindStringSubmatch(lines.Text()); at != nil {
				found <- at[1]
			}
		}
		select {
		case found <- "": // it ended before
			s.Log(strings.Join(said, "\n"))
		default:
		}
	}()
	select {
	case page = <-found:
		require.NotEmpty(s, page, "the relay ended")
	case <-time.After(patience):
		require.FailNow(s, "there is no dashboard")
	}
	return page
}

// enter goes to a link or button with the Tab key, sees that whoever looks knows where the keyboard
// is, and presses Enter.
func (b *browser) enter(text string) {
	b.Helper()
	const most = 60
	quoted, err := json.Marshal(text)
	require.NoError(b, err)
	b.do(chromedp.WaitReady("main"))
	for range most {
		b.do(chromedp.KeyEvent("\t"))
		if !eval[bool](b, fmt.Sprintf(`(document.activeElement?.innerText || "").trim() === %s`, quoted)) {
			continue
		}
		require.True(b, eval[bool](b, `(() => { const s = getComputedStyle(document.activeElement);
			return document.activeElement.matches(":focus-visible") && s.outlineStyle !== "none" &&
				parseFloat(s.outlineWidth) >= 2 })()`), "the focus on %q is not to be seen", text)
		eval[int](b, `document.body.dataset.old = "1"; 0`)
		b.do(chromedp.KeyEvent("\r"))
		require.Eventually(b, func() bool {
			return eval[bool](b, `document.readyState === "complete" && !!document.body && !document.body.dataset.old`)
		}, patience, 50*time.Millisecond, "no page followed %q", text)
		return
	}
	require.FailNow(b, "the keyboard does not reach "+text, eval[string](b, "document.body.innerText"))
}
