package catalog

import "strings"

// behaviour asks for the partitions, too: a foreign key, a trigger or a rule of one works like one
// of the table.
func (postgres) behaviour() behaviourQueries {
	const partitions = `(SELECT to_regclass(?0)::oid
		UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(?0)))`
	rule := func(code string) string {
		return `CASE ` + code +
			` WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' END`
	}
	return behaviourQueries{
		byQuotedName: true,
		cascades: `
			SELECT conname, confrelid::regclass::text, concat_ws(' ',
				'ON DELETE ' || ` + rule("confdeltype") + `,
				'ON UPDATE ' || ` + rule("confupdtype") + `)
			FROM pg_constraint
			WHERE conrelid IN ` + partitions + ` AND contype = 'f' AND conparentid = 0
				AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
			ORDER BY conname`,
		triggers: `
			SELECT DISTINCT tgname, '', '' FROM pg_trigger
			WHERE tgrelid IN ` + partitions + ` AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgname`,
		rules: `
			SELECT DISTINCT rulename, '', '' FROM pg_rewrite
			WHERE ev_class IN ` + partitions + ` AND ev_type IN ('2', '3', '4') AND ev_enabled <> 'D'
			ORDER BY rulename`,
		rowSecurity: `
			SELECT relname, '', '' FROM pg_class WHERE oid IN ` + partitions + ` AND relrowsecurity`,
		unique: `
			SELECT i.indexrelid::regclass::text, a.attname, ''
			FROM pg_index AS i
				JOIN pg_attribute AS a ON a.attrelid = i.indrelid
					AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
			WHERE i.indrelid = to_regclass(?0) AND i.indisunique AND i.indisvalid
				AND i.indpred IS NULL AND i.indexprs IS NULL
			ORDER BY i.indexrelid`,
		folded: `
			SELECT a.attname, '',
				CASE WHEN l.collisdeterministic THEN format_type(b.oid, -1) ELSE 'collation ' || l.collname END
			FROM pg_attribute AS a
				JOIN pg_type AS t ON t.oid = a.atttypid
				JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
				JOIN pg_collation AS l ON l.oid = a.attcollation
			WHERE a.attrelid = to_regclass(?0) AND a.attnum > 0 AND NOT a.attisdropped
				AND (NOT l.collisdeterministic OR b.typname IN ('citext', 'bpchar'))`,
		texts: `
			SELECT a.attname, '', format_type(a.atttypid, a.atttypmod)
			FROM pg_attribute AS a
				JOIN pg_type AS t ON t.oid = a.atttypid
				JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
			WHERE a.attrelid = to_regclass(?0) AND a.attnum > 0 AND NOT a.attisdropped
				AND b.typcategory = 'S'`,
		cachedSequence: `
			SELECT s.seqrelid::regclass::text, '', ''
			FROM pg_sequence AS s
				JOIN pg_depend AS d ON d.objid = s.seqrelid AND d.classid = 'pg_class'::regclass
			WHERE d.refobjid = to_regclass(?0) AND d.deptype IN ('a', 'i') AND s.seqcache > 1`,
	}
}

func (mariadb) behaviour() behaviourQueries {
	const of = `table_schema = coalesce(nullif(?1, ''), database()) AND table_name = ?0`
	return behaviourQueries{
		cascades: `
			SELECT constraint_name, referenced_table_name,
				concat('ON DELETE ', delete_rule, ' ON UPDATE ', update_rule)
			FROM information_schema.referential_constraints
			WHERE ` + strings.ReplaceAll(of, "table_schema", "constraint_schema") + `
				AND (delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
					OR update_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT'))
			ORDER BY constraint_name`,
		triggers: `
			SELECT trigger_name, '', '' FROM information_schema.triggers
			WHERE event_object_schema = coalesce(nullif(?1, ''), database()) AND event_object_table = ?0
			ORDER BY trigger_name`,
		unique: `
			SELECT index_name, column_name, '' FROM information_schema.statistics
			WHERE ` + of + ` AND non_unique = 0 ORDER BY index_name, seq_in_index`,
		folded: `
			SELECT column_name, '', concat('collation ', collation_name) FROM information_schema.columns
			WHERE ` + of + ` AND collation_name LIKE '%\_ci'`,
		texts: `
			SELECT column_name, '', column_type FROM information_schema.columns
			WHERE ` + of + ` AND (collation_name IS NOT NULL
				OR data_type LIKE '%binary' OR data_type LIKE '%blob')`,
	}
}

// behaviour leaves out collations: SQLite says nothing about that of a column, but of those in an
// index.
func (sqlite) behaviour() behaviourQueries {
	return behaviourQueries{
		cascades: `
			SELECT '', "table", 'ON DELETE ' || on_delete || ' ON UPDATE ' || on_update
			FROM pragma_foreign_key_list(?0)
			WHERE seq = 0 AND (on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
				OR on_update IN ('CASCADE', 'SET NULL', 'SET DEFAULT')) ORDER BY id`,
		triggers: `
			SELECT name, '', '' FROM sqlite_master
			WHERE type = 'trigger' AND lower(tbl_name) = lower(?0) ORDER BY name`,
		unique: `
			SELECT 'the primary key' AS name, name AS "column", '' FROM pragma_table_info(?0) WHERE pk > 0
			UNION ALL
			SELECT l.name, coalesce(i.name, ''), ''
			FROM pragma_index_list(?0) AS l, pragma_index_info(l.name) AS i
			WHERE l."unique" AND NOT l.partial
			ORDER BY 1`,
		folded: `
			SELECT DISTINCT i.name, '', 'collation ' || i.coll
			FROM pragma_index_list(?0) AS l, pragma_index_xinfo(l.name) AS i
			WHERE i.key AND i.name IS NOT NULL AND i.coll <> 'BINARY' AND l.origin <> 'c'`,
		// Its rule for the affinity TEXT:
		// https://sqlite.org/datatype3.html#determination_of_column_affinity
		texts: `
			SELECT name, '', type FROM pragma_table_xinfo(?0)
			WHERE type NOT LIKE '%int%'
				AND (type LIKE '%char%' OR type LIKE '%clob%' OR type LIKE '%text%')`,
	}
}
