package replica

import (
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// ownTables is what a replica asks of its database: its own tables, how they are made, and what the
// catalog says about those of the models.
type ownTables struct {
	*db.Database
	*applied.Tables
	*tables.Migrator
	*catalog.Catalog
}

func newOwnTables(service *bun.DB, config Config) (*ownTables, error) {
	d, err := db.New(service, db.Names{Schema: config.Schema, Prefix: config.TablePrefix})
	if err != nil {
		return nil, err
	}
	return &ownTables{d, applied.New(d), tables.New(d), catalog.New(d)}, nil
}
