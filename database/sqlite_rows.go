package database

import (
	"context"
	"database/sql/driver"
)

// sqliteRows is what the driver's rows can do.
type sqliteRows interface {
	driver.Rows
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// turnRows are rows that were read outside of a transaction.
type turnRows struct {
	sqliteRows
	permit *permit // nil when they are closed
}

// Close implements driver.Rows.
func (r *turnRows) Close() error {
	err := r.sqliteRows.Close()
	if r.permit != nil {
		err = r.permit.done(err)
		r.permit = nil
	}
	return err
}

// fileStmt is a prepared statement, which takes its turn like any other.
type fileStmt struct {
	driver.Stmt
	conn   *fileConn
	writes bool
}

var (
	_ driver.StmtExecContext  = (*fileStmt)(nil)
	_ driver.StmtQueryContext = (*fileStmt)(nil)
)

// ExecContext implements driver.StmtExecContext.
func (s *fileStmt) ExecContext(
	ctx context.Context, args []driver.NamedValue,
) (driver.Result, error) {
	p, err := s.conn.permit(ctx, s.writes)
	if err != nil {
		return nil, err
	}
	result, err := s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	return result, p.done(err)
}

// QueryContext implements driver.StmtQueryContext.
func (s *fileStmt) QueryContext(
	ctx context.Context, args []driver.NamedValue,
) (driver.Rows, error) {
	p, err := s.conn.permit(ctx, s.writes)
	if err != nil {
		return nil, err
	}
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	return p.rows(rows, err)
}
