package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/runbook"
)

// patience is how long something may take that has to happen, on a slow machine.
const patience = 90 * time.Second

// browser is a tab.
type browser struct {
	*testing.T
	ctx context.Context
	axe string

	mu   sync.Mutex
	said []string // what the page complained about
}

// open starts a browser of its own.
func open(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		dbtest.Missing(t, "browser", "install Debian's chromium: "+err.Error())
	}
	axe, err := exec.CommandContext(t.Context(), "./axe").Output()
	if err != nil {
		dbtest.Missing(t, "browser", "tests/browser/axe: "+err.Error())
	}
	code, err := os.ReadFile(strings.TrimSpace(string(axe)))
	require.NoError(t, err)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1000, 800))
	allocated, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, closeTab := chromedp.NewContext(allocated)
	t.Cleanup(closeTab)
	b := &browser{T: t, ctx: ctx, axe: string(code)}
	// the first call owns the browser, and must not have a deadline
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	require.NoError(t, chromedp.Listen(ctx, b.hear))
	return b
}

// hear notes what the browser complains about: errors of scripts, what the policy forbade, what
// could not be loaded.
func (b *browser) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.said = append(b.said, e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		b.said = append(b.said, fmt.Sprint("console: ", e.Type))
	case *log.EventEntryAdded:
		b.said = append(b.said, e.Entry.Text+" "+e.Entry.URL)
	}
}

// quiet fails the test if the browser complained.
func (b *browser) quiet() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b, b.said)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	require.NoError(b, chromedp.Do(ctx, steps...))
}

// eval returns what an expression of JavaScript is.
func eval[T any](b *browser, expression string, options ...chromedp.EvaluateOption) T {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, options...))
	require.NoError(b, err, expression)
	return value
}

// sees waits until a text is on the page, which is kept fresh by itself.
func (b *browser) sees(text string) {
	b.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	quoted, err := json.Marshal(text)
	require.NoError(b, err)
	for !eval[bool](b, fmt.Sprintf("!!document.body && document.body.innerText.includes(%s)", quoted)) {
		if time.Now().After(deadline) {
			require.FailNow(b, "not seen: "+text, eval[string](b, "document.body.innerText"))
		}
		<-tick.C
	}
}

// says waits until the page has the words that docs/operations.md promises for a scenario.
func (b *browser) says(scenario string) {
	b.Helper()
	runbook.WillSay(b, scenario, func() string { return eval[string](b, "document.body.innerText") })
}

// press presses the link or button with a text, and waits for the page that follows.
func (b *browser) press(text string) {
	b.Helper()
	b.pressUnless(nil, text)
}

// pressUnless presses what has a text, unless done is closed while there is no such thing.
func (b *browser) pressUnless(done <-chan struct{}, text string) {
	b.Helper()
	quoted, err := json.Marshal(text)
	require.NoError(b, err)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	// The mark is gone with the page.
	for !eval[bool](b, fmt.Sprintf(`(() => { const e = [...document.querySelectorAll("main a, main button")]
		.find(e => e.innerText.trim().startsWith(%s)); if (e) { document.body.dataset.old = "1"; e.click() }
		return !!e })()`, quoted)) {
		if time.Now().After(deadline) {
			require.FailNow(b, "not there: "+text, eval[string](b, "document.body.innerText"))
		}
		select {
		case <-tick.C:
		case <-done:
			return
		}
	}
	for !eval[bool](b, `document.readyState === "complete" && !!document.body && !document.body.dataset.old`) {
		require.True(b, time.Now().Before(deadline), "no page followed %q", text)
		<-tick.C
	}
}

// accessible asks axe-core for what is in the way of people: in light, in dark and on a phone.
func (b *browser) accessible() {
	b.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		eval[any](b, b.axe+"; 0")
		found := eval[[]string](b, `axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
			.then(r => r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.map(n => n.html).join(" | ")))`,
			chromedp.EvalAwaitPromise)
		require.Empty(b, found, scheme)
	}
	b.scheme("light")
	b.do(chromedp.EmulateViewport(360, 740))
	require.LessOrEqual(b, eval[float64](b, "document.documentElement.scrollWidth"), 360.0,
		"it is wider than a phone")
	b.do(chromedp.EmulateViewport(1000, 800))
}

func (b *browser) scheme(scheme string) {
	b.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}))
}

// shoot writes a screenshot, if somebody wants them.
func (b *browser) shoot(name string) {
	b.Helper()
	if *screenshots == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	require.NoError(b, err)
	require.NoError(b, os.MkdirAll(*screenshots, 0o755))
	require.NoError(b, os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644))
}

// withoutScripts has the pages' own scripts not run.
func (b *browser) withoutScripts() {
	b.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled,
			emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
}

// loads loads a page until a text is on it.
func (b *browser) loads(page, text string) {
	b.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	quoted, err := json.Marshal(text)
	require.NoError(b, err)
	for {
		b.do(chromedp.Navigate(page))
		if eval[bool](b, fmt.Sprintf("document.body.innerText.includes(%s)", quoted)) {
			return
		}
		if time.Now().After(deadline) {
			require.FailNow(b, "not seen: "+text, eval[string](b, "document.body.innerText"))
		}
		<-tick.C
	}
}
