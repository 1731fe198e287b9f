package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// options are the values of the flags.
type options struct {
	stderr io.Writer

	db, schema, prefix string
	logFormat          string
	verbose            bool

	broker       string // of run, replicate and others
	migrateFirst bool
	health       string // of run
	poll         time.Duration
	shutdown     time.Duration
	listenDB     string
	watch        time.Duration // how often run looks at the triggers

	ui, uiTokenFile, uiUserHeader string // of run
	uiActions                     bool
	traces                        string             // of run and replicate: where spans go
	diagnosis                     diagnosis.Config   // from when on something is a trouble
	answerer                      *converge.Answerer // nil where replicas are not answered

	queues   []string // of run and answer
	backfill string   // of replicate
	silent   bool     // of run and replicate: no conversation

	verifyEvery   time.Duration // of run and answer
	verify        string        // of replicate: what to do about differences
	verifyGrace   time.Duration // of replicate: how long they have to last
	verifyContent []string      // of replicate: models whose columns are compared

	config, masterDB, replicaDB, queue string // of what works on the tables of a cqrsync.yaml
	masterConfig, replicaConfig        string

	databases map[string]*bun.DB // that are open, by URL
	closers   []io.Closer
}

func (o *options) commonFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "db", Sources: cli.EnvVars("CQRSYNC_DB"), Destination: &o.db,
			Usage: "the database with the outbox: postgres://USER:PASSWORD@HOST/NAME, mysql://… " +
				"or sqlite://FILE",
		},
		&cli.StringFlag{
			Name: "schema", Sources: cli.EnvVars("CQRSYNC_SCHEMA"), Destination: &o.schema,
			Usage: "the schema of cqrsync's tables, if not the connection's search path",
		},
		&cli.StringFlag{
			Name: "prefix", Sources: cli.EnvVars("CQRSYNC_TABLE_PREFIX"), Destination: &o.prefix,
			Usage: "what stands before the names of cqrsync's tables",
		},
		&cli.StringFlag{
			Name: "log-format", Destination: &o.logFormat, Value: "text",
			Usage: "text or json",
		},
		&cli.BoolFlag{
			Name: "verbose", Aliases: []string{"v"}, Destination: &o.verbose,
			Usage: "log more",
		},
	}
}

// setting is how a user sets a value: what is wrong with it is reported under both names.
type setting struct{ flag, variable string }

var (
	dbSetting       = setting{"--db", "CQRSYNC_DB"}
	brokerSetting   = setting{"--broker", "CQRSYNC_BROKER"}
	schemaSetting   = setting{"--schema", "CQRSYNC_SCHEMA"}
	prefixSetting   = setting{"--prefix", "CQRSYNC_TABLE_PREFIX"}
	healthSetting   = setting{"--health", "CQRSYNC_HEALTH"}
	pollSetting     = setting{"--poll", "CQRSYNC_POLL"}
	shutdownSetting = setting{"--shutdown-timeout", "CQRSYNC_SHUTDOWN_TIMEOUT"}
	listenSetting   = setting{"--listen-db", "CQRSYNC_LISTEN_DB"}
	formatSetting   = setting{flag: "--log-format"}
)

func (s setting) wrong(err error) error {
	if err == nil {
		return nil
	}
	if s.variable == "" {
		return fmt.Errorf("%s: %w", s.flag, err)
	}
	return fmt.Errorf("%s (or %s): %w", s.flag, s.variable, err)
}

func noArguments(cmd *cli.Command) error {
	if cmd.Args().Present() {
		// The argument is not shown: it may be a URL.
		return errors.New("unexpected argument: everything is a flag, see --help")
	}
	return nil
}

// checkNames checks what needs no database.
func (o *options) checkNames() error {
	return errors.Join(
		schemaSetting.wrong(admin.Config{Schema: o.schema}.Validate()),
		prefixSetting.wrong(admin.Config{TablePrefix: o.prefix}.Validate()))
}

func (o *options) names() admin.Config {
	return admin.Config{Schema: o.schema, TablePrefix: o.prefix}
}

// openDB opens a database once; close closes it. create makes a SQLite file that is not there,
// which only commands do that make tables: anything else would hide a mistyped path.
func (o *options) openDB(url string, create bool) (*bun.DB, error) {
	if db := o.databases[url]; db != nil {
		return db, nil
	}
	openURL := database.OpenExisting
	if create {
		openURL = database.Open
	}
	db, err := openURL(url)
	if err != nil {
		return nil, err
	}
	o.closers = append(o.closers, db)
	if o.databases == nil {
		o.databases = map[string]*bun.DB{}
	}
	o.databases[url] = db
	return db, nil
}

// requireFile fails where a SQLite file is not there. Other databases are asked by the first
// statement.
func requireFile(url string, db *bun.DB) error {
	if !strings.HasPrefix(url, "sqlite:") {
		return nil
	}
	if err := db.Ping(); errors.Is(err, fs.ErrNotExist) { // it looks at a file
		return err
	}
	return nil
}

// errNoDatabase says what is wanted where a database's URL is not set.
var errNoDatabase = errors.New("not set, want postgres://USER:PASSWORD@HOST/NAME, mysql://… or " +
	"sqlite://FILE")

// openAdmin opens cqrsync's own tables in the database of --db; close closes it. What is wrong is
// what the flags say.
func (o *options) openAdmin(create bool) (*bun.DB, *admin.Tables, error) {
	if o.db == "" {
		return nil, nil, errors.Join(dbSetting.wrong(errNoDatabase), o.checkNames())
	}
	db, err := o.openDB(o.db, create)
	if err != nil {
		return nil, nil, errors.Join(dbSetting.wrong(err), o.checkNames())
	}
	if err := o.checkNames(); err != nil {
		return nil, nil, err
	}
	tables, err := admin.Open(db, o.names())
	// What is left: not every database has schemas, and a file may not be there.
	return db, tables, errors.Join(dbSetting.wrong(requireFile(o.db, db)), schemaSetting.wrong(err))
}

// openPublisher makes the publisher, which connects later; close closes it.
func (o *options) openPublisher(log *slog.Logger) (transport.BatchPublisher, error) {
	const want = "want " + brokerURLs
	switch {
	case o.broker == "":
		return nil, brokerSetting.wrong(errors.New("not set, " + want))
	case strings.HasPrefix(o.broker, "memory:"):
		return nil, brokerSetting.wrong(fmt.Errorf("%q reaches this process only, %s",
			o.broker, want))
	}
	publisher, err := open.Publisher(o.broker, open.Options{Logger: log})
	if err != nil {
		return nil, brokerSetting.wrong(err)
	}
	o.closers = append(o.closers, publisher)
	return publisher, nil
}

// close closes what was opened, last first.
func (o *options) close() error {
	var errs []error
	for _, closer := range slices.Backward(o.closers) {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}

func (o *options) logger() (*slog.Logger, error) { return o.loggerAt(slog.LevelInfo) }

// loggerAt has less to say than logger, unless --verbose is given.
func (o *options) loggerAt(least slog.Level) (*slog.Logger, error) {
	level := &slog.HandlerOptions{Level: least}
	if o.verbose {
		level.Level = slog.LevelDebug
	}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(o.stderr, level)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(o.stderr, level)), nil
	default:
		return nil, formatSetting.wrong(fmt.Errorf("%q, want text or json", o.logFormat))
	}
}
