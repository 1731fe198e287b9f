package outbox_test

import (
	"bytes"
	"database/sql"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Parcel is a row of a table that each test makes anew.
type Parcel struct {
	bun.BaseModel `bun:"table:parcels"`
	outbox.Tracked

	ID       int64    `bun:",pk"`
	DepotID  int64    `bun:",nullzero"`
	Stickers []Bundle `bun:"rel:has-many,join:id=parcel_id"`
}

// Bundle does not embed Tracked.
type Bundle struct {
	bun.BaseModel `bun:"table:bundles"`
	ID            int64 `bun:",pk"`
	ParcelID      int64
	DepotID       int64
}

// findings runs the statements, makes a box on the database, and compares what it finds with what
// Check says.
func findings(t *testing.T, db *bun.DB, register func(*outbox.Box) error, statements ...string) []*outbox.Finding {
	t.Helper()
	for _, statement := range statements {
		require.NoError(t, exec(db.DB.ExecContext(t.Context(), statement)), statement)
	}
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	require.NoError(t, register(box))
	found, err := box.Findings(t.Context())
	require.NoError(t, err)
	err = box.Check(t.Context())
	for _, f := range found {
		require.NotEmpty(t, f.Fix)
		if f.IsWrong() {
			require.ErrorContains(t, err, f.Error())
			require.ErrorAs(t, err, new(*outbox.Finding))
		}
	}
	if !slices.ContainsFunc(found, (*outbox.Finding).IsWrong) {
		require.NoError(t, err)
	}
	return found
}

func kinds(found []*outbox.Finding) []outbox.FindingKind {
	var names []outbox.FindingKind
	for _, f := range found {
		names = append(names, f.Kind)
	}
	return names
}

func parcel(options ...outbox.Option) func(*outbox.Box) error {
	return func(box *outbox.Box) error { return outbox.Register[Parcel](box, "parcel", options...) }
}

const (
	depots  = "CREATE TABLE depots (id bigint PRIMARY KEY)"
	parcels = "CREATE TABLE parcels (id bigint PRIMARY KEY, depot_id bigint)"
)

func TestAPlainTableHasNoFindings(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		require.Empty(t, findings(t, db, parcel(), depots,
			"CREATE TABLE parcels (id bigint PRIMARY KEY, depot_id bigint, FOREIGN KEY (depot_id) REFERENCES depots (id))"))
	})
}

func TestForeignKeysThatChangeRowsAreFound(t *testing.T) {
	for _, rule := range []string{"ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE SET DEFAULT", "ON UPDATE CASCADE"} {
		t.Run(rule, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				if db.Dialect().Name() == dialect.MySQL && rule == "ON DELETE SET DEFAULT" {
					return // InnoDB has no such rule
				}
				create := "CREATE TABLE parcels (id bigint PRIMARY KEY, depot_id bigint DEFAULT 0, " +
					"CONSTRAINT to_depot FOREIGN KEY (depot_id) REFERENCES depots (id) " + rule + ")"
				found := findings(t, db, parcel(), depots, create)
				require.Equal(t, []outbox.FindingKind{outbox.FoundCascade}, kinds(found))
				require.Equal(t, "parcel", found[0].Model)
				require.Equal(t, "parcels", found[0].Table)
				require.Contains(t, found[0].Detail, "depots")
				require.Contains(t, found[0].Detail, rule)
			})
		})
	}
}

// A list goes with its parent, whose message says so. What another table does to it no message
// tells.
func TestForeignKeysOfRelationsAreFoundUnlessTheyFollowTheModel(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		found := findings(t, db, parcel(outbox.Relations("Stickers")), depots, parcels, `
			CREATE TABLE bundles (id bigint PRIMARY KEY, parcel_id bigint, depot_id bigint,
				FOREIGN KEY (parcel_id) REFERENCES parcels (id) ON DELETE CASCADE,
				FOREIGN KEY (depot_id) REFERENCES depots (id) ON DELETE CASCADE)`)
		require.Equal(t, []outbox.FindingKind{outbox.FoundCascade, outbox.FoundRelation}, kinds(found))
		require.Equal(t, "bundles", found[0].Table)
		require.Contains(t, found[0].Detail, "depots")
		require.Contains(t, found[1].Detail, "Bundle does not embed outbox.Tracked")
	})
}

func TestTriggersAreFoundAndAccepted(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		statements := []string{parcels}
		switch db.Dialect().Name() {
		case dialect.PG:
			statements = append(statements,
				"CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
				"CREATE TRIGGER noted BEFORE INSERT ON parcels FOR EACH ROW EXECUTE FUNCTION nothing()",
				"CREATE TRIGGER disabled BEFORE INSERT ON parcels FOR EACH ROW EXECUTE FUNCTION nothing()",
				"ALTER TABLE parcels DISABLE TRIGGER disabled")
		case dialect.MySQL:
			statements = append(statements, "CREATE TRIGGER noted BEFORE INSERT ON parcels FOR EACH ROW SET NEW.depot_id = 1")
		default:
			statements = append(statements, "CREATE TRIGGER noted AFTER INSERT ON parcels BEGIN SELECT 1; END")
		}
		found := findings(t, db, parcel(), statements...)
		require.Equal(t, []outbox.FindingKind{outbox.FoundTrigger}, kinds(found))
		require.Contains(t, found[0].Detail, "triggers noted run")
		require.Empty(t, findings(t, db, parcel(outbox.Accept(outbox.FoundTrigger))))
	})
}

func TestAKeyThatIsNotUniqueIsFound(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		for create, unique := range map[string]bool{
			"CREATE TABLE parcels (id bigint, depot_id bigint)":                                               false,
			"CREATE TABLE parcels (id bigint NOT NULL, depot_id bigint NOT NULL, PRIMARY KEY (id, depot_id))": false,
			"CREATE TABLE parcels (id bigint NOT NULL UNIQUE, depot_id bigint PRIMARY KEY)":                   true,
			"CREATE TABLE parcels (id bigint, depot_id bigint, UNIQUE (depot_id, id))":                        false,
		} {
			found := findings(t, db, parcel(), create)
			if unique {
				require.Empty(t, found, create)
			} else {
				require.Equal(t, []outbox.FindingKind{outbox.FoundKey}, kinds(found), create)
			}
			require.NoError(t, exec(db.DB.ExecContext(t.Context(), "DROP TABLE parcels")))
		}
		if db.Dialect().Name() != dialect.MySQL {
			found := findings(t, db, parcel(), "CREATE TABLE parcels (id bigint, depot_id bigint)",
				"CREATE UNIQUE INDEX live ON parcels (id) WHERE depot_id > 0")
			require.Equal(t, []outbox.FindingKind{outbox.FoundKey}, kinds(found), "an index with a condition")
		}
	})
}

// A database compares a text with a number as numbers or as texts, but Go has one number for both.
func TestATextKeyThatIsReadAsANumberIsFound(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		for _, typ := range []string{"varchar(20)", "char(8)"} {
			found := findings(t, db, parcel(outbox.Accept(outbox.FoundSpelling)),
				"CREATE TABLE parcels (id "+typ+" PRIMARY KEY, depot_id bigint)")
			require.Equal(t, []outbox.FindingKind{outbox.FoundKey}, kinds(found), typ)
			require.Contains(t, found[0].Detail, "'01'")
			require.NoError(t, exec(db.DB.ExecContext(t.Context(), "DROP TABLE parcels")))
		}
		require.Empty(t, findings(t, db, parcel(), "CREATE TABLE parcels (id numeric(20) PRIMARY KEY, depot_id bigint)"))
	})
}

// A model's key may have several columns of which some are unique.
func TestAKeyOfSeveralColumnsIsUnique(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		seat := func(box *outbox.Box) error {
			return outbox.Register[Seat](box, "seat", outbox.Accept(outbox.FoundSpelling))
		}
		require.Empty(t, findings(t, db, seat,
			"CREATE TABLE seats ("+quotedRow(db)+" bigint, place varchar(20), guest varchar(20), PRIMARY KEY (place, "+quotedRow(db)+"))"))
	})
}

// SQLite makes a number of a text that looks like one, where the column is not declared as text.
func TestColumnsThatRoundDecimalsAreFound(t *testing.T) {
	type Account struct {
		bun.BaseModel `bun:"table:accounts"`

		ID      int64 `bun:",pk"`
		Balance string
		Limit   sql.NullString `bun:"max"`
		Rate    float64
		Note    string
		Opened  time.Time
	}
	create := func(decimal string) string {
		return "CREATE TABLE accounts (id bigint PRIMARY KEY, balance " + decimal + ", max " + decimal +
			", rate double precision, note varchar(20), opened timestamp)"
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		account := func(box *outbox.Box) error { return outbox.Register[Account](box, "account") }
		require.Empty(t, findings(t, db, account, create("decimal(15, 2)")))
		require.NoError(t, exec(db.DB.ExecContext(t.Context(), "DROP TABLE accounts")))
		found := findings(t, db, account, create("decimal(30, 21)"))
		if db.Dialect().Name() != dialect.SQLite {
			require.Empty(t, found)
			return
		}
		require.Equal(t, []outbox.FindingKind{outbox.FoundRounding, outbox.FoundRounding}, kinds(found))
		require.True(t, found[0].IsWrong())
		require.Contains(t, found[0].Error(), "column balance was declared decimal(30, 21)")
		require.Contains(t, found[1].Error(), "column max")
		require.Contains(t, found[1].Fix, "declare it TEXT")
		accepted := func(box *outbox.Box) error {
			return outbox.Register[Account](box, "account", outbox.Accept(outbox.FoundRounding))
		}
		require.Empty(t, findings(t, db, accepted))
	})
}

func quotedRow(db *bun.DB) string {
	quote := string(db.Dialect().IdentQuote())
	return quote + "row" + quote
}

func TestKeysOfTwoSpellingsAreFound(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db := dbtest.Open(t, dbtest.PostgresDatabaseURL(t))
		for _, statement := range []string{
			"CREATE EXTENSION citext", "CREATE DOMAIN folded AS citext",
			"CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
		} {
			require.NoError(t, exec(db.DB.ExecContext(t.Context(), statement)))
		}
		requireSpellings(t, db, map[string]bool{
			"text": false, `text COLLATE "C"`: false, "varchar(20)": false,
			"citext": true, "folded": true, "text COLLATE folding": true, "char(8)": true,
		})
	})
	t.Run("mariadb", func(t *testing.T) {
		t.Parallel()
		requireSpellings(t, dbtest.Open(t, dbtest.MariaDBURL(t)), map[string]bool{
			"varbinary(20)": false, "varchar(20) COLLATE utf8mb4_bin": false,
			"varchar(20) COLLATE utf8mb4_general_ci": true,
		})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		requireSpellings(t, dbtest.Open(t, dbtest.SQLiteURL(t)), map[string]bool{
			"text": false, "text COLLATE NOCASE": true, "text COLLATE RTRIM": true,
		})
	})
}

// requireSpellings says which types of a key column take two spellings for one value.
func requireSpellings(t *testing.T, db *bun.DB, types map[string]bool) {
	t.Helper()
	register := func(box *outbox.Box) error { return outbox.Register[Note](box, "note") }
	for columnType, folded := range types {
		create := "CREATE TABLE notes (slug " + columnType + " PRIMARY KEY, text text)"
		found := findings(t, db, register, create)
		if folded {
			require.Equal(t, []outbox.FindingKind{outbox.FoundSpelling}, kinds(found), columnType)
			require.Contains(t, found[0].Detail, "key column slug")
		} else {
			require.Empty(t, found, columnType)
		}
		require.NoError(t, exec(db.DB.ExecContext(t.Context(), "DROP TABLE notes")))
	}
}

func TestRulesAndRowSecurityAreFound(t *testing.T) {
	found := findings(t, dbtestPostgres(t), parcel(), parcels,
		"CREATE RULE softly AS ON DELETE TO parcels DO INSTEAD NOTHING",
		"ALTER TABLE parcels ENABLE ROW LEVEL SECURITY")
	require.ElementsMatch(t, []outbox.FindingKind{outbox.FoundRule, outbox.FoundRowSecurity}, kinds(found))
}

func TestPartitionsAreLookedAt(t *testing.T) {
	found := findings(t, dbtestPostgres(t), parcel(), depots,
		"CREATE TABLE parcels (id bigint PRIMARY KEY, depot_id bigint) PARTITION BY HASH (id)",
		"CREATE TABLE parcels_0 PARTITION OF parcels FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
		"ALTER TABLE parcels_0 ADD FOREIGN KEY (depot_id) REFERENCES depots ON DELETE CASCADE",
		"CREATE RULE softly AS ON DELETE TO parcels_0 DO INSTEAD NOTHING")
	require.ElementsMatch(t, []outbox.FindingKind{outbox.FoundCascade, outbox.FoundRule}, kinds(found))
}

// Two tables of one name: the one that the model names is asked, in the schema where it is.
func TestTablesOfOtherSchemasAreNotTakenForTheModels(t *testing.T) {
	type Elsewhere struct {
		bun.BaseModel `bun:"table:other.parcels"`
		ID            int64 `bun:",pk"`
	}
	db := dbtest.Open(t, dbtest.PostgresDatabaseURL(t))
	require.Empty(t, findings(t, db, parcel(), parcels, "CREATE SCHEMA other",
		"CREATE TABLE other.parcels (id bigint)"))
	found := findings(t, db, func(box *outbox.Box) error { return outbox.Register[Elsewhere](box, "elsewhere") })
	require.Equal(t, []outbox.FindingKind{outbox.FoundKey}, kinds(found))
}

func TestASequenceWithACacheIsFoundAndNotAccepted(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	require.NoError(t, f.box.Check(t.Context()))
	_, err := f.db.DB.ExecContext(t.Context(), "ALTER TABLE outbox_messages ALTER COLUMN id SET CACHE 50")
	require.NoError(t, err)
	err = f.box.Check(t.Context())
	var found *outbox.Finding
	require.ErrorAs(t, err, &found)
	require.Equal(t, outbox.FoundSequence, found.Kind)
	_, err = f.db.DB.ExecContext(t.Context(), found.Fix)
	require.NoError(t, err)
	require.NoError(t, f.box.Check(t.Context()))
	err = outbox.Register[Log](f.box, "log", outbox.Accept(outbox.FoundSequence))
	require.ErrorContains(t, err, "cannot be accepted")
}

func TestFindingsThatAreNotWrongAreLogged(t *testing.T) { //nolint:paralleltest // it replaces the default logger
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	require.NoError(t, f.box.Check(t.Context()))
	require.Contains(t, log.String(), "kind=relation model=order table=lines")
}

func TestAScanOnlyColumnIsRefused(t *testing.T) {
	type Total struct {
		bun.BaseModel `bun:"table:orders"`
		ID            int64 `bun:",pk"`
		Sum           int64 `bun:",scanonly"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for _, option := range []outbox.Option{outbox.Columns("id", "sum"), outbox.TrackPrevious("sum")} {
		box, err := outbox.New(f.db, outbox.Config{})
		require.NoError(t, err)
		require.ErrorContains(t, outbox.Register[Total](box, "total", option), "sum is a scan-only field")
		require.ErrorContains(t, box.Check(t.Context()), "sum is a scan-only field")
	}
	box, err := outbox.New(f.db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Total](box, "total", outbox.WithoutColumns("sum")))
}
