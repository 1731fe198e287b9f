package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// CheckSession says why a connection would change values without a word. Only MariaDB's can: a
// server or a URL that is not strict has them cut, and times are shifted by two ideas of a time
// zone.
func (d *Database) CheckSession(ctx context.Context, conn bun.IDB) error {
	query := d.sessions.settings()
	if query == "" {
		return nil
	}
	var session struct {
		Mode           string
		Moment, Stated time.Time
	}
	const at = 1_000_000_000 // 2001-09-09 01:46:40
	err := conn.NewRaw(query, at, time.Unix(at, 0)).Scan(ctx, &session)
	if err != nil {
		return fmt.Errorf("ask the database about the session: %w", err)
	}
	var errs []error
	modes := strings.Split(strings.ToUpper(session.Mode), ",")
	strict, escapes := false, true
	for _, mode := range modes {
		strict = strict || mode == "STRICT_ALL_TABLES" || mode == "STRICT_TRANS_TABLES"
		escapes = escapes && mode != "NO_BACKSLASH_ESCAPES"
	}
	if !strict {
		errs = append(errs,
			fmt.Errorf("sql_mode is %q, so MariaDB cuts values that do not fit; open the database "+
				"with package database, or put sql_mode=STRICT_ALL_TABLES into the DSN or the "+
				"server's configuration", session.Mode))
	}
	if !escapes {
		errs = append(errs,
			errors.New("sql_mode has NO_BACKSLASH_ESCAPES, and bun escapes with backslashes; "+
				"leave it out"))
	}
	if session.Moment.Unix() != at || session.Stated.Unix() != at {
		errs = append(errs,
			fmt.Errorf("times come back shifted by %v (timestamp) and %v (datetime), because the "+
				"session's time zone is not that of the driver and of bun; open the database with "+
				"package database, or put time_zone='+00:00' and loc=UTC into the DSN, and make bun's "+
				"dialect WithTimeLocation(\"UTC\")",
				time.Duration(session.Moment.Unix()-at)*time.Second,
				time.Duration(session.Stated.Unix()-at)*time.Second))
	}
	return errors.Join(errs...)
}
