package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Incarnation names the course of history that the outbox's database is on. It is drawn when the tables are made, and anew
// when the database went back: only the part behind the dash then, so that replicas know whose it is.
type Incarnation struct {
	ID    string
	Drawn time.Time
	// Reason is why it was drawn.
	Reason string
}

// Incarnation returns the present one.
func (s *Store) Incarnation(ctx context.Context) (Incarnation, error) {
	return s.incarnation(ctx, s.db)
}

func (s *Store) incarnation(ctx context.Context, db bun.IDB) (i Incarnation, err error) {
	var drawn int64
	err = db.QueryRowContext(ctx, "SELECT id, "+s.dialect.micros("drawn_at")+", reason FROM ?", s.table("outbox_incarnation")).
		Scan(&i.ID, &drawn, &i.Reason)
	if err != nil {
		return i, fmt.Errorf("read the incarnation of the outbox: %w", err)
	}
	i.Drawn = time.UnixMicro(drawn).UTC()
	return i, nil
}

// DrawIncarnation draws a new one, because an operator says that the database went back.
func (s *Store) DrawIncarnation(ctx context.Context, reason string) (Incarnation, error) {
	before, err := s.Incarnation(ctx)
	if err == nil {
		err = s.draw(ctx, s.db, before.ID, reason)
	}
	if err != nil {
		return before, fmt.Errorf("draw an incarnation: %w", err)
	}
	return s.Incarnation(ctx)
}

// draw draws a new incarnation in place of one, unless somebody else has.
func (s *Store) draw(ctx context.Context, db bun.IDB, before, reason string) error {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	database, _, _ := strings.Cut(before, "-")
	_, err := db.ExecContext(ctx, "UPDATE ? SET id = ?, drawn_at = "+s.dialect.now()+", reason = ? WHERE id = ?",
		s.table("outbox_incarnation"), database+"-"+hex.EncodeToString(random), cut(reason, 400), before)
	return err
}

func cut(text string, length int) string {
	if len(text) > length {
		text = strings.ToValidUTF8(text[:length], "")
	}
	return text
}

// placeEvery is how often it is asked where the database is. A server that was just promoted says so a while later.
const placeEvery = time.Minute

// settleIn draws a new incarnation where the database is not where it was: a copy that was restored, or another server after
// a failover, which may have been behind. What cannot be asked is not known, and changes nothing.
func (s *Store) settleIn(ctx context.Context) error {
	if !s.timeline.placeDue(time.Now()) {
		return nil
	}
	place := s.place(ctx)
	if place == "" {
		return nil
	}
	table := s.table("outbox_incarnation")
	var id, before string
	if err := s.db.QueryRowContext(ctx, "SELECT id, place FROM ?", table).Scan(&id, &before); err != nil {
		return fmt.Errorf("read where the outbox was: %w", err)
	}
	if before == place {
		return nil
	}
	return s.inTx(ctx, s.bounds, func(ctx context.Context, tx bun.IDB) error {
		result, err := tx.ExecContext(ctx, "UPDATE ? SET place = ? WHERE place = ? AND id = ?", table, place, before, id)
		if err != nil || before == "" {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err // somebody else did
		}
		return s.draw(ctx, tx, id, "the database is another server or a restored copy: "+before+" before, now "+place)
	})
}

// place asks where the database is, empty where that is not known.
func (s *Store) place(ctx context.Context) string {
	for _, query := range s.dialect.places(s.names) {
		var place string
		if err := s.db.QueryRowContext(ctx, query).Scan(&place); err == nil {
			return place
		}
	}
	return ""
}

// places: a backup that is recovered, and a standby that is promoted, begin a timeline; a dump makes other tables. Not every
// user may ask for the first two.
func (postgres) places(names Names) []string {
	tables := fmt.Sprintf("(SELECT oid::text FROM pg_database WHERE datname = current_database()) || '/' || to_regclass('%s')::oid::text",
		quoteText(names.table(`"`, "outbox_incarnation")))
	return []string{
		"SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || " +
			"(SELECT timeline_id::text FROM pg_control_checkpoint()) || '/' || " + tables,
		"SELECT " + tables,
	}
}

// places: servers that replicate have numbers of their own, and the file of a table is younger where it was restored. In a
// Galera cluster each connection may be to another of its servers.
func (mysql) places(names Names) []string {
	schema, name := bareName(names.table("`", "outbox_incarnation"), "`")
	return []string{"SELECT CASE WHEN EXISTS (SELECT 1 FROM information_schema.global_variables " +
		"WHERE variable_name = 'WSREP_ON' AND variable_value = 'ON') THEN '' " +
		"ELSE CONCAT(@@server_id, '/', UNIX_TIMESTAMP(create_time)) END FROM information_schema.tables " +
		"WHERE table_schema = coalesce(nullif('" + quoteText(schema) + "', ''), database()) AND table_name = '" + quoteText(name) + "'"}
}

// places: a file does not say that it is a copy.
func (sqlite) places(Names) []string { return nil }
