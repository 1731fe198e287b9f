// Package command makes command lines of packages operate and operate/admin, to be mounted in any
// urfave/cli application:
//
//	source := command.Source{Box: openBox, Replica: openReplica}
//	app.Commands = append(app.Commands, command.Commands(source)...)
//
// A service that mounts them in its own binary has its own serializers, filters and mappings at
// work; cmd/relay mounts them over tables that a cqrsync.yaml describes.
//
// Exit codes are for cron jobs (package exit). Results go to standard output, everything else to
// standard error.
package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/admin/commands"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Source opens what the commands work on, when they run. Commands of a side that is nil are left
// out.
type Source struct {
	// Box opens the master side with its models registered.
	Box func(ctx context.Context) (*outbox.Box, error)
	// Replica opens the replica side with its models registered.
	Replica func(ctx context.Context) (*replica.Replica, error)
	// Admin opens cqrsync's own tables, for status, lanes, dead-letters and the like. Commands on
	// them are left out where its Open is nil; where its Replica is nil, the one above is taken.
	Admin commands.Source
	// Models, if set, are what diff --all compares. nil takes those that Replica registers.
	Models func(ctx context.Context) ([]string, error)
	// Pair, if set, opens both sides for one model, so that diff goes on where another model is not
	// as it should be. nil uses Box and Replica.
	Pair func(ctx context.Context, model string) (*outbox.Box, *replica.Replica, error)
	// HasQueue, if set, says whether the broker has the queue of a replica. sync --queue asks it.
	HasQueue func(ctx context.Context, queue string) (bool, error)
	// Answerer, if set, opens the master's side of the conversation with its replicas, for
	// backfill.
	Answerer func(ctx context.Context) (*converge.Answerer, error)
}

// Commands returns the commands. They read and write the root command's Reader, Writer and
// ErrWriter.
func Commands(s Source) []*cli.Command {
	var made []*cli.Command
	if s.Box != nil {
		made = append(made, s.dump(), s.sync(), s.diffMaster(), s.diffSync(), s.deletedDiffMaster(),
			s.adopt())
	}
	if s.Answerer != nil {
		made = append(made, s.backfill())
	}
	if s.Replica != nil {
		made = append(made, s.load(), s.diffReplica(), s.deletedDiffReplica(),
			s.deletedSyncReplica())
	}
	if s.Box != nil && s.Replica != nil {
		made = append(made, s.diff())
	}
	for _, c := range made {
		c.Action = exiting(c.Name, c.Action)
		c.OnUsageError = func(_ context.Context, _ *cli.Command, err error, _ bool) error {
			return exit.With(exit.Wrong(exit.Flags(err)))
		}
	}
	return append(s.admin(), made...)
}

// admin are the commands on cqrsync's own tables.
func (s Source) admin() []*cli.Command {
	if s.Admin.Open == nil {
		return nil
	}
	if s.Admin.Replica == nil {
		s.Admin.Replica = s.Replica
	}
	return s.Admin.Commands()
}

// The categories, which say which sides a command works on.
const (
	categoryMaster  = "master"
	categoryReplica = "replica"
	categoryBoth    = "both"
)

// The flags that several commands have.

// modelFlag names the model.
func modelFlag() cli.Flag {
	return &cli.StringFlag{Name: "model", Aliases: []string{"cqrs-id"}, Required: true,
		Usage: "the CQRS id of the model"}
}

func filterFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "filter", Aliases: []string{"f"}, Required: true,
		Usage: `which instances, as JSON: '{"id__in":[1,2],"status":"open"}', or '{}' for all`,
	}
}

// narrowFlag is filterFlag for commands that take all where it is not given.
func narrowFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "filter", Aliases: []string{"f"}, Value: "{}", Usage: "which instances, as JSON; " +
			"all if not given",
	}
}

func inputFlag() cli.Flag {
	return &cli.StringFlag{Name: "input", Aliases: []string{"i"}, Value: "-",
		Usage: "`FILE` to read, - is standard input"}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "-",
		Usage: "`FILE` to write, - is standard output"}
}

func graceFlag() cli.Flag {
	return &cli.DurationFlag{
		Name: "grace", Value: 2 * time.Second,
		Usage: "how long a difference must last to be one: a change that is on its way is none",
	}
}

func contentFlag() cli.Flag {
	return &cli.BoolFlag{Name: "content", Usage: "compare columns too, not revisions only " +
		"(Django cannot read the output)"}
}

func allowEmptyFlag() cli.Flag {
	return &cli.BoolFlag{Name: "allow-empty", Usage: "an empty input is one without keys, as a " +
		"Django stage that found nothing writes; else it is taken for a stage that failed"}
}

func maxDeletesFlag() cli.Flag {
	return &cli.Int64Flag{Name: "max-deletes",
		Usage: "delete up to `N` rows; if not given, it stops before it deletes more than " +
			"1 % of the model and more than 100 rows, or all of them, or what a master without rows " +
			"does not have"}
}

func resumeFlag() cli.Flag {
	return &cli.StringFlag{
		Name:  "resume",
		Usage: "keep in `FILE` how far it came, and go on from there; it is removed at the end",
	}
}

// paceFlags are those of every command.
func paceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "batch", Usage: "rows that are read and held at once (default: as " +
			"fits the command)"},
		&cli.IntFlag{Name: "rate", Usage: "rows per second at most, 0 for as many as go"},
		&cli.BoolFlag{Name: "progress", Usage: "show how far it is: a bar on a terminal, else " +
			"JSON lines"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing but results " +
			"and errors"},
	}
}

// options reads the flags that a command has.
func options(cmd *cli.Command) (operate.Options, *progress, error) {
	o := operate.Options{
		PageSize: cmd.Int("batch"), Rate: cmd.Int("rate"), Grace: cmd.Duration("grace"),
		AllowEmpty: cmd.Bool("allow-empty"), MaxDeletes: cmd.Int64("max-deletes"),
	}
	errs := []error{noEmptyFlags(cmd)}
	for name, value := range map[string]int{"batch": o.PageSize, "rate": o.Rate} {
		if value < 0 {
			errs = append(errs, fmt.Errorf("--%s: %d, want a positive number", name, value))
		}
	}
	if o.Grace < 0 {
		errs = append(errs, fmt.Errorf("--grace: %s, want a positive time such as 2s", o.Grace))
	}
	if o.MaxDeletes < 0 {
		errs = append(errs, fmt.Errorf("--max-deletes: %d, want how many rows may be deleted",
			o.MaxDeletes))
	}
	if text := cmd.String("filter"); text != "" {
		var err error
		if o.Filter, err = operate.ParseFilter(text); err != nil {
			errs = append(errs, fmt.Errorf("--%w", err))
		}
	}
	errs = append(errs, digestMistakes(cmd, o.Filter)...)
	p := newProgress(cmd)
	o.Progress = p.report
	return o, p, exit.Mistake(errors.Join(errs...))
}

// noEmptyFlags refuses flags that were given and say nothing, as a shell's variable that is not set
// makes them: they would mean all rows, all queues.
func noEmptyFlags(cmd *cli.Command) error {
	want := map[string]string{
		"filter": "'{}' for all instances", "model": "the CQRS id of a model",
		"queue": "the queue of a replica, or leave it out",
		"input": "a file, or - for standard input", "output": "a file, or - for standard output",
		"resume": "a file",
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if cmd.IsSet(name) && cmd.String(name) == "" {
			errs = append(errs, fmt.Errorf("--%s: it is empty, want %s", name, want[name]))
		}
	}
	return errors.Join(errs...)
}
