package sqlitefile

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Primary result codes of SQLite.
const (
	codeBusy     = 5
	codeReadOnly = 8
	codeCorrupt  = 11
	codeFull     = 13
	codeCannot   = 14
	codeNotADB   = 26
)

// LockTimeout is how long a writer waits for others that have a file locked.
const LockTimeout = 10 * time.Second

// BusyError says that a file was locked by others for longer than a writer waits. Nothing was
// written; the same transaction, run again from its beginning, may pass.
type BusyError struct {
	File string
	// Holder says who has it locked, as far as that is known.
	Holder string
	// Err is SQLite's, nil where SQLite was not asked.
	Err error
}

func (e *BusyError) Error() string {
	text := fmt.Sprintf("SQLite file %s: locked for %s by %s: run the transaction again, or end "+
		"what holds it",
		e.File, LockTimeout, e.Holder)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns SQLite's error.
func (e *BusyError) Unwrap() error { return e.Err }

// Code is SQLite's result code.
func (e *BusyError) Code() int {
	if code := Code(e.Err); code != 0 {
		return code
	}
	return codeBusy
}

// Temporary says that trying again may help.
func (e *BusyError) Temporary() bool { return true }

// Code returns SQLite's extended result code, or 0.
func Code(err error) int {
	var sqlite interface {
		error
		Code() int
	}
	if errors.As(err, &sqlite) {
		return sqlite.Code()
	}
	return 0
}

// Explain adds to an error of SQLite which file it is about, and what to do where that is known.
// Errors about statements stay as they are.
func Explain(path string, err error) error {
	if err == nil {
		return nil
	}
	var busy *BusyError
	if errors.As(err, &busy) {
		return err
	}
	var advice string
	switch Code(err) & 0xff {
	case codeBusy:
		return &BusyError{File: path,
			Holder: "another process, or a connection that this one opened elsewhere", Err: err}
	case codeCorrupt:
		advice = "it is damaged: stop what uses it and restore a backup (docs/operations.md)"
	case codeNotADB:
		advice = "it is no SQLite database, or damaged: check the path, or restore a backup " +
			"(docs/operations.md)"
	case codeFull:
		advice = "the disk is full: make room on it"
	case codeCannot:
		advice = "check the path, and that its folder exists and may be written to"
		if _, statErr := Identify(path); errors.Is(statErr, fs.ErrNotExist) {
			advice = "it does not exist or cannot be made: check the path"
		}
	case codeReadOnly:
		advice = "it may only be read here: check its permissions, those of its folder, and " +
			"mode=ro in the URL"
	default:
		return err
	}
	if strings.Contains(err.Error(), advice) {
		return err
	}
	return fmt.Errorf("SQLite file %s: %s: %w", path, advice, err)
}

// IsFull says that the disk is.
func IsFull(err error) bool { return Code(err)&0xff == codeFull }

// IsDamaged says that the file is no database, or no longer one.
func IsDamaged(err error) bool {
	code := Code(err) & 0xff
	return code == codeCorrupt || code == codeNotADB
}

// IsBusy says that the file was locked by others.
func IsBusy(err error) bool { return Code(err)&0xff == codeBusy }
