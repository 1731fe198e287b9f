package db

import "context"

// Place asks where a table of the database is, empty where nothing tells. history says that a
// server that went on from a copy of another one's data is another place.
func (d *Database) Place(
	ctx context.Context, table string, history bool,
) (place string, err error) {
	for _, query := range d.sessions.places(string(d.Table(table)), history) {
		if err = d.bun.QueryRowContext(ctx, query).Scan(&place); err == nil {
			return place, nil
		}
	}
	return "", err
}

// places tells timelines and tables apart: a backup that is recovered, and a standby that is
// promoted, begin a timeline; a dump makes other tables. Not every user may ask for the first two.
func (postgresSessions) places(table string, history bool) []string {
	cluster := "(SELECT system_identifier::text FROM pg_control_system())"
	if history {
		// The control file has a promoted server's timeline only after a checkpoint, which may take
		// a minute, and until then messages would go under the incarnation of before.
		cluster += " || '/' || CASE WHEN pg_is_in_recovery() THEN (SELECT " +
			"lpad(to_hex(timeline_id), 8, '0') FROM pg_control_checkpoint()) ELSE " +
			"left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
	}
	own := "(SELECT oid::text FROM pg_database WHERE datname = current_database()) || '/' || " +
		"to_regclass('" +
		QuoteText(table) + "')::oid::text"
	return []string{"SELECT " + cluster + " || '/' || " + own, "SELECT " + own}
}

// places tells servers and the ages of tables apart: servers that replicate have numbers of their
// own, and the file of a table is younger where it was restored. In a Galera cluster each
// connection may be to another of its servers.
func (mariadbSessions) places(table string, _ bool) []string {
	schema, name := BareName(table, "`")
	return []string{"SELECT CASE WHEN EXISTS (SELECT 1 FROM information_schema.global_variables " +
		"WHERE variable_name = 'WSREP_ON' AND variable_value = 'ON') THEN '' " +
		"ELSE CONCAT(@@server_id, '/', UNIX_TIMESTAMP(create_time)) END FROM information_schema.tables " +
		"WHERE table_schema = coalesce(nullif('" + QuoteText(schema) + "', ''), database()) " +
		"AND table_name = '" + QuoteText(name) + "'"}
}

// places is empty: a file does not say that it is a copy.
func (sqliteSessions) places(string, bool) []string { return nil }
