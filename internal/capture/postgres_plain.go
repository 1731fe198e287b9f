package capture

// flushPlain is the flush of rows that were inserted or updated and are all to be sent: one
// statement, which is what makes both one row and a hundred thousand cheap.
//
// It reads the rows in the snapshot in which it locks the ledger, where the other flush must read
// behind the lock. That is right because the transaction has written these rows itself, so that
// nobody else can have changed them since; rows that it only touched, and the rows of relations,
// others may have changed. A mixed transaction takes the other flush whole, because keys are
// locked in one order.
func (p place) flushPlain(m Model, table string) string {
	if len(m.Track)+len(m.Touch)+len(m.Relations) > 0 || m.Filter != "" {
		return ""
	}
	row := `LEFT JOIN LATERAL (
			SELECT * FROM ` + table + ` AS t WHERE ` + keyOf(m.Key, "l.key") + ` OFFSET 0
		) AS t ON true`
	wrong := `NOT (` + m.present() + `) OR ` + m.unsendable() + ` IS NOT NULL`
	return `	IF _plain THEN
		WITH l AS (
			` + p.raise(m, `, deleted = false
			RETURNING l.key, l.revision, l.after, l.updated_at`) + `
		), appended AS (
			INSERT INTO ` + p.name("outbox_messages") + ` (lane, model, key, revision, after,
				signal, pk, data, meta, headers, correlation_id, updated_at, keep)
			SELECT ` + m.lane("l.key") + `, ` + literal(m.ID) + `, l.key, l.revision, l.after, 'SAVE',
				(` + keyJSON(m.Key, "l.key") + `)::json, (` + object("t", m.Fields, nil, nil) + `)::json,
				_meta, _headers, _correlation, l.updated_at, ` + boolean(m.Everything) + `
			FROM l ` + row + ` WHERE NOT (` + wrong + `)
			RETURNING 1
		)
		SELECT (SELECT count(*) FROM l) - (SELECT count(*) FROM appended) INTO _missing;
		IF _missing = 0 THEN
			RETURN;
		END IF;
		SELECT l.key, ` + m.unsendable() + ` INTO _key, _what FROM (SELECT key ` + p.marked(m) + `) AS l
		` + row + ` WHERE ` + wrong + ` LIMIT 1;
` + m.complain() + `		RAISE EXCEPTION 'cqrsync: table % has several rows of one key',
			` + literal(m.Table) + `
			USING HINT = 'A key must be unique, also among tables that inherit from each other.';
	END IF;
`
}

func boolean(yes bool) string {
	if yes {
		return "true"
	}
	return "false"
}
