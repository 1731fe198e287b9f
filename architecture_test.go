package cqrsync

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The files that the architecture sends a newcomer to are there.
func TestTheArchitectureNamesFilesThatExist(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("`([a-z_*]+(?:/[a-z_*]+)+(?:\\.go|/)?)`").FindAllStringSubmatch(string(page), -1) {
		path := strings.TrimSuffix(found[1], "/")
		if matches, err := filepath.Glob(path); err != nil || len(matches) == 0 {
			t.Errorf("%s is named and not there (%v)", found[1], err)
		}
	}
}
