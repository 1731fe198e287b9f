package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate"
)

// position is what a --resume file holds: which command was how far.
type position struct {
	Command string `json:"command"`
	Model   string `json:"model,omitempty"`
	Filter  string `json:"filter,omitempty"`
	// After is the last primary key that was dealt with, Lines how many lines were.
	After json.RawMessage `json:"after,omitempty"`
	Lines int             `json:"lines,omitempty"`
	// Bad is what went wrong on the way: whoever goes on passes it over, and must not end as if all
	// were well.
	Bad int64 `json:"bad,omitempty"`

	file string
}

// resumed reads the --resume file; without one, or where it is not there yet, it is the beginning.
func resumed(cmd *cli.Command) (*position, error) {
	p := &position{Command: cmd.Name, Model: cmd.String("model"), Filter: cmd.String("filter"),
		file: cmd.String("resume")}
	if p.file == "" {
		return p, nil
	}
	text, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--resume: %w", err)
	}
	var was position
	if err := json.Unmarshal(text, &was); err != nil {
		return nil, fmt.Errorf("--resume: %s does not say how far a command came: %w", p.file, err)
	}
	if was.Command != p.Command || was.Model != p.Model || was.Filter != p.Filter {
		return nil, fmt.Errorf("--resume: %s is of %s --model %q --filter %q: give the same "+
			"flags, or remove it",
			p.file, was.Command, was.Model, was.Filter)
	}
	was.file = p.file
	return &was, nil
}

func (p *position) begun() bool { return p.After != nil || p.Lines > 0 }

// resume is for commands that go through primary keys; it is zero where nobody may go on.
func (p *position) resume() operate.Resume {
	if p.file == "" {
		return operate.Resume{}
	}
	return operate.Resume{After: p.After, Reached: func(pk json.RawMessage) error {
		p.After = pk
		return p.save()
	}}
}

// reachedLine notes how many lines were dealt with.
func (p *position) reachedLine(lines int) error {
	p.Lines = lines
	return p.save()
}

// save replaces the file, so that it is never half written.
func (p *position) save() error {
	if p.file == "" {
		return nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	if err := os.WriteFile(p.file+".new", append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	return nil
}

// errBad says that a command came to its end, but some of its input was bad.
var errBad = errors.New("when the cause is gone, run the same command again")

// atEnd says that a command that ended so came to its end: whoever runs it again means the whole.
func atEnd(err error) bool { return err == nil || isDifference(err) || errors.Is(err, errBad) }

// finished removes the file.
func (p *position) finished() error {
	if p.file == "" {
		return nil
	}
	if err := os.Remove(p.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--resume: %w", err)
	}
	return nil
}
