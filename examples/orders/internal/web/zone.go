package web

import (
	"fmt"
	"time"
)

// Zone reads the name of a time zone. "Local" is none: it would be the server's.
func Zone(name, text string) (*time.Location, error) {
	zone, err := time.LoadLocation(text)
	if err != nil || text == "" || text == "Local" {
		return nil, InvalidError{fmt.Sprintf(
			"%s: %s is not a time zone, want one like UTC or Europe/Berlin", name, Quote(text))}
	}
	return zone, nil
}
