package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func (s Source) migrate() *cli.Command {
	c := &cli.Command{
		Name: "migrate", Usage: "make or upgrade the tables, or print the SQL that does",
		Flags:  []cli.Flag{sideFlag("which tables: outbox (the master's), replica or all")},
		Action: s.runMigrate,
	}
	if s.Layout != nil {
		c.Flags = append(c.Flags,
			&cli.BoolFlag{
				Name: "print",
				Usage: "print the SQL for psql or sqlite3 and change nothing; a later migrate " +
					"knows it was applied",
			},
			&cli.StringFlag{
				Name: "dialect", Usage: "what SQL to print: postgres, mysql or sqlite, if not " +
					"that of --db",
			})
	}
	return c
}

func (s Source) runMigrate(ctx context.Context, cmd *cli.Command) error {
	sides, sideErr := sides(cmd)
	if cmd.Bool("print") {
		return s.printSQL(cmd, sides, sideErr)
	}
	var dialectErr error
	if cmd.String("dialect") != "" {
		dialectErr = of("--dialect", errors.New("only together with --print"))
	}
	t, err := s.open(ctx, true, noArguments(cmd), sideErr, dialectErr)
	if err != nil {
		return err
	}
	for _, side := range sides {
		applied, err := t.Migrate(ctx, side)
		for _, name := range applied {
			fmt.Fprintf(stdout(cmd), "%s: applied %s\n", side, name)
		}
		if err != nil {
			return err
		}
		if len(applied) == 0 {
			fmt.Fprintf(stdout(cmd), "%s: up to date\n", side)
		}
	}
	return nil
}

func (s Source) printSQL(cmd *cli.Command, sides []admin.Side, sideErr error) error {
	dialect, where, layoutErr := s.Layout()
	if wanted := cmd.String("dialect"); wanted != "" {
		dialect = wanted
	}
	var dialectErr error
	if dialect != "postgres" && dialect != "mysql" && dialect != "sqlite" {
		dialectErr = of("--dialect",
			fmt.Errorf("%q, want postgres, mysql or sqlite, or a --db that says which", dialect))
	}
	if err := exit.Wrong(noArguments(cmd), sideErr, dialectErr, layoutErr); err != nil {
		return err
	}
	for _, side := range sides {
		sql, err := admin.MigrationSQL(dialect, side, where)
		if err != nil {
			return exit.Wrong(err)
		}
		fmt.Fprintln(stdout(cmd), sql)
	}
	return nil
}

// sides reads --side.
func sides(cmd *cli.Command) ([]admin.Side, error) {
	switch side := admin.Side(cmd.String("side")); side {
	case admin.OutboxSide, admin.ReplicaSide:
		return []admin.Side{side}, nil
	case "all":
		return []admin.Side{admin.OutboxSide, admin.ReplicaSide}, nil
	default:
		return nil, of("--side", fmt.Errorf("%q, want outbox, replica or all", side))
	}
}
