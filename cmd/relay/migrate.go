package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

func (o *options) migrateFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "side", Destination: &o.side, Value: string(store.Outbox),
			Usage: "which tables: outbox (the master's), replica or all",
		},
		&cli.BoolFlag{
			Name: "print", Destination: &o.print,
			Usage: "print the SQL for psql or sqlite3 and change nothing; a later migrate knows it was applied",
		},
		&cli.StringFlag{
			Name: "dialect", Destination: &o.dialect,
			Usage: "what SQL to print: postgres, mysql or sqlite, if not that of --db",
		},
	}
}

func (o *options) migrate(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	sides, sideErr := o.sides()
	if o.print {
		return o.printMigrations(cmd, sides, sideErr)
	}
	var dialectErr error
	if o.dialect != "" {
		dialectErr = dialectSetting.wrong(errors.New("only together with --print"))
	}
	s, dbErr := o.openStoreOr(create)
	if err := wrong(noArguments(cmd), dbErr, sideErr, dialectErr); err != nil {
		return err
	}
	for _, side := range sides {
		applied, err := s.Migrate(ctx, side)
		for _, name := range applied {
			fmt.Fprintf(o.stdout, "%s: applied %s\n", side, name)
		}
		if err != nil {
			return err
		}
		if len(applied) == 0 {
			fmt.Fprintf(o.stdout, "%s: up to date\n", side)
		}
	}
	return nil
}

func (o *options) printMigrations(cmd *cli.Command, sides []store.Side, sideErr error) error {
	dialect := o.dialect
	if dialect == "" {
		dialect = dialectOf(o.db)
	}
	var dialectErr error
	if dialect != "postgres" && dialect != "mysql" && dialect != "sqlite" {
		dialectErr = dialectSetting.wrong(fmt.Errorf("%q, want postgres, mysql or sqlite, or a --db that says which", dialect))
	}
	if err := wrong(noArguments(cmd), sideErr, dialectErr, o.checkNames()); err != nil {
		return err
	}
	for _, side := range sides {
		sql, err := store.PrintMigrations(dialect, side, o.names())
		if err != nil {
			return wrong(schemaSetting.wrong(err))
		}
		fmt.Fprintln(o.stdout, sql)
	}
	return nil
}

// sides reads --side.
func (o *options) sides() ([]store.Side, error) {
	switch side := store.Side(o.side); side {
	case store.Outbox, store.Replica:
		return []store.Side{side}, nil
	case "all":
		return []store.Side{store.Outbox, store.Replica}, nil
	default:
		return nil, sideSetting.wrong(fmt.Errorf("%q, want outbox, replica or all", o.side))
	}
}

// dialectOf is the dialect of a database URL, empty if there is none.
func dialectOf(rawURL string) string {
	switch scheme, _, _ := strings.Cut(rawURL, "://"); scheme {
	case "postgres", "postgresql":
		return "postgres"
	case "mysql", "sqlite":
		return scheme
	default:
		return ""
	}
}
