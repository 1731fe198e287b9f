package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v3"
)

// progress shows how far a command is.
type progress struct {
	command, model string
	w              io.Writer
	bar            *progressbar.ProgressBar // on a terminal
	lines          bool                     // elsewhere
	started, shown time.Time
	done           int64
}

func newProgress(cmd *cli.Command) *progress {
	p := &progress{command: cmd.Name, model: cmd.String("model"), w: cmd.Root().ErrWriter,
		started: time.Now()}
	switch {
	case !cmd.Bool("progress") || cmd.Bool("quiet"):
	case isTerminal(p.w):
		p.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(cmd.Name),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("rows"),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	default:
		p.lines = true
	}
	return p
}

func isTerminal(w io.Writer) bool {
	file, is := w.(*os.File)
	if !is {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// of says how many there are; a negative number means that nobody knows.
func (p *progress) of(total int64) {
	if p.bar != nil && total > 0 && p.bar.GetMax64() != total {
		p.bar.ChangeMax64(total)
	}
}

// between is how often a line is printed.
const between = time.Second

func (p *progress) report(done int64) {
	p.done = done
	if p.bar != nil {
		_ = p.bar.Set64(done) // a bar that cannot be drawn stops nothing
	}
	if p.lines && time.Since(p.shown) >= between {
		p.shown = time.Now()
		p.line(false)
	}
}

// progressLine is what --progress prints where there is no terminal. Names are never changed, only
// added.
type progressLine struct {
	Command   string  `json:"command"`
	Model     string  `json:"model,omitempty"`
	Done      int64   `json:"done"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
	Finished  bool    `json:"finished"`
}

func (p *progress) line(finished bool) {
	seconds := time.Since(p.started).Seconds()
	text, _ := json.Marshal(progressLine{ // numbers and strings always can be
		p.command, p.model, p.done, round(seconds), round(float64(p.done) / max(seconds,
			0.001)), finished,
	})
	fmt.Fprintf(p.w, "%s\n", text)
}

func round(f float64) float64 { return float64(int64(f*10+0.5)) / 10 }

// end is for the first call; more do nothing.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish() // as with Set64
	}
	if p.lines {
		p.line(true)
	}
	p.bar, p.lines = nil, false
}
