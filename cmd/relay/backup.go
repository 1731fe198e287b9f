package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport/open"
)

func (o *options) backup() *cli.Command {
	return &cli.Command{
		Name:      "backup",
		ArgsUsage: "sqlite://FILE…",
		Usage: "copy SQLite files while they are in use: the master's, then the broker's, " +
			"then the replicas'",
		Description: "In that order a message is in one of the copies wherever it was on its " +
			"way. After a restore, relay diff finds what differs: see docs/operations.md.",
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "to", Usage: "the folder for the copies, which keep the files' names",
		}},
		Action: makeBackup,
	}
}

var toSetting = setting{flag: "--to"}

func makeBackup(ctx context.Context, cmd *cli.Command) error {
	copies, err := copiesTo(cmd.String("to"), cmd.Args().Slice())
	if err != nil {
		return exit.Wrong(err)
	}
	for _, c := range copies {
		if err := c.make(ctx); err != nil {
			return fmt.Errorf("copy %s: %w", c.from, err)
		}
		fmt.Fprintln(cmd.Root().Writer, c.to)
	}
	return nil
}

// fileCopy is one to be made.
type fileCopy struct{ from, to string }

// copiesTo says which are to be made, or everything that is wrong with the command line.
func copiesTo(folder string, urls []string) ([]fileCopy, error) {
	var errs []error
	if info, err := os.Stat(folder); folder == "" || err != nil || !info.IsDir() {
		errs = append(errs, toSetting.wrong(fmt.Errorf("%q, want a folder that exists", folder)))
	}
	if len(urls) == 0 {
		errs = append(errs, errors.New("no files: want sqlite://FILE…, the master's first, then "+
			"the broker's, then the replicas'"))
	}
	var copies []fileCopy
	targets := map[string]bool{}
	for _, url := range urls {
		path, err := open.SQLiteFile(url)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := fileCopy{path, filepath.Join(folder, filepath.Base(path))}
		_, err = os.Lstat(c.to)
		switch {
		case targets[c.to]:
			errs = append(errs, fmt.Errorf("two files are called %s: copy them to two folders",
				filepath.Base(path)))
		case err == nil:
			errs = append(errs, fmt.Errorf("%s exists: name another folder", c.to))
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
		targets[c.to] = true
		copies = append(copies, c)
	}
	return copies, errors.Join(errs...)
}

func (c fileCopy) make(ctx context.Context) (err error) {
	db, err := database.OpenExisting("sqlite://" + c.from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// One snapshot, whatever is written meanwhile.
	if _, err := db.DB.ExecContext(ctx, "VACUUM INTO ?", c.to); err != nil {
		return err
	}
	return errors.Join(flush(c.to), flush(filepath.Dir(c.to)))
}

// flush waits until a file, or the names in a folder, are on the disk.
func flush(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
