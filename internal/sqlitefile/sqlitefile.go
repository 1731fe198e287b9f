// Package sqlitefile knows about the files of SQLite databases what SQLite does not tell: how a URL
// names one, whether a path still leads to the file that was opened, and what to do about an error.
//
// Neighbours: database opens the services' files, transport/sqlite the broker's.
package sqlitefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Path returns the absolute path that the part of a URL behind sqlite:// names, without its
// options. The four slashes of other libraries' absolute paths are as good as three.
func Path(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("the file is missing: want sqlite://FILE")
	case strings.HasPrefix(name, ":memory:"):
		return "", errors.New("want a file: a database in memory is gone with each connection")
	case strings.ContainsRune(name, 0):
		return "", fmt.Errorf("the path %q contains a NUL byte", name)
	case strings.HasSuffix(name, "/"):
		return "", fmt.Errorf("the path %q is that of a folder: want sqlite://FILE", name)
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("the path %q: %w", name, err)
	}
	return path, nil
}

// URI returns the path as the beginning of a name that SQLite reads as a URI: file:/…, without
// options.
func URI(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/… of Windows
	}
	return "file://" + escaped.Replace(path)
}

// escaped are the characters that would end the name, or begin an escape.
var escaped = strings.NewReplacer("%", "%25", "#", "%23", "?", "%3f")

// Touch is a statement that reads the file and changes nothing. Without one SQLite has not opened
// it yet.
const Touch = "SELECT count(*) FROM sqlite_schema"

// Identity is a file as it was found at its path.
type Identity struct {
	path string
	info fs.FileInfo
}

// Identify looks which file is at the path; fs.ErrNotExist says none.
func Identify(path string) (Identity, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder, want a file", path)
	}
	return Identity{path, info}, err
}

// Same says that both are one file.
func (i Identity) Same(other Identity) bool {
	return i.info != nil && other.info != nil && os.SameFile(i.info, other.info)
}

// Moved returns a [MovedError] if its path does not lead to the file any more, because it was
// deleted, replaced or moved away. A connection to it goes on then without a word, and so do the
// writes.
func (i Identity) Moved() error {
	now, err := Identify(i.path)
	switch {
	case err == nil && i.Same(now):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &MovedError{File: i.path, Gone: true}
	case err != nil:
		return fmt.Errorf("inspect SQLite file %s: %w", i.path, err)
	default:
		return &MovedError{File: i.path}
	}
}

// MovedError says that a file was deleted, moved away or replaced while it was open.
type MovedError struct {
	File string
	// Gone says that there is no other file in its place.
	Gone bool
}

func (e *MovedError) Error() string {
	if e.Gone {
		return "SQLite file " + e.File +
			" was deleted or moved away while it was open: put it back, or restart what uses it " +
			"to begin with an empty one"
	}
	return "SQLite file " + e.File + " was replaced by another one while it was open"
}
