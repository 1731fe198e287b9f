package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/content"
)

// claim is what a line of DiffMaster says of one key.
type claim struct {
	pk, key  string // as the wire has it, and as ledgers know it
	revision int64
	hashes   string
	ahead    bool // the replica has a later revision, that is older than the listing
	more     contents
}

// parseClaims reads a line of DiffMaster. Integer keys, by far the most, are parts of the line and
// not copied.
func parseClaims(line string, withHashes bool) ([]claim, error) {
	if !withHashes {
		if claims, ok := integerClaims(line); ok {
			return claims, nil
		}
	}
	var rows [][]json.RawMessage
	if err := json.Unmarshal([]byte(line), &rows); err != nil {
		return nil, fmt.Errorf("want a JSON array of [key, revision] pairs: %w", err)
	}
	claims := make([]claim, len(rows))
	for i, row := range rows {
		var err error
		if claims[i], err = parseClaim(row, withHashes); err != nil {
			return nil, fmt.Errorf("pair %d: %w", i+1, err)
		}
	}
	return claims, nil
}

func parseClaim(row []json.RawMessage, withHashes bool) (c claim, err error) {
	want := 2
	if withHashes {
		want = 3
	}
	if len(row) != want && (!withHashes || len(row) != want+1) {
		return c, fmt.Errorf("want %d values, got %d", want, len(row))
	}
	c.pk = string(row[0])
	if c.key, err = envelope.KeyOf(row[0]); err != nil {
		return c, err
	}
	if err := json.Unmarshal(row[1], &c.revision); err != nil {
		return c, fmt.Errorf("revision: %w", err)
	}
	if withHashes {
		if err := json.Unmarshal(row[2], &c.hashes); err != nil {
			return c, fmt.Errorf("hashes: %w", err)
		}
	}
	if len(row) > 3 {
		if err := json.Unmarshal(row[3], &c.more); err != nil {
			return c, fmt.Errorf("more hashes: %w", err)
		}
	}
	return c, nil
}

// integerClaims reads [[1,0],[2,5]] and says whether the line was nothing but that.
func integerClaims(line string) (claims []claim, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "[")
	claims = make([]claim, 0, strings.Count(line, "["))
	for ok && rest != "]" {
		if len(claims) > 0 {
			if rest, ok = strings.CutPrefix(rest, ","); !ok {
				return nil, false
			}
			rest = strings.TrimLeft(rest, " ")
		}
		var pair string
		if rest, ok = strings.CutPrefix(rest, "["); !ok {
			return nil, false
		}
		if pair, rest, ok = strings.Cut(rest, "]"); !ok {
			return nil, false
		}
		key, digits, found := strings.Cut(pair, ",")
		revision, err := strconv.ParseInt(strings.TrimLeft(digits, " "), 10, 64)
		if !found || err != nil || !isInteger(key) {
			return nil, false
		}
		claims = append(claims, claim{pk: key, key: key, revision: revision})
	}
	return claims, ok
}

// isInteger says that text is an integer as JSON writes it.
func isInteger(text string) bool {
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || len(digits) > 1 && digits[0] == '0' || text == "-0" {
		return false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return false
		}
	}
	return true
}

var errHashes = errors.New("the hashes do not fit the fields that line 1 names")

// checkHashes makes sure that a claim has a hash per field.
func checkHashes(claims []claim, names []string) error {
	for _, c := range claims {
		if len(c.hashes) != len(names)*content.HashLen {
			return fmt.Errorf("key %s: %w", c.key, errHashes)
		}
		for _, l := range c.more.Lists {
			for _, hashes := range l.Hashes {
				if len(hashes) != len(l.Names)*content.HashLen {
					return fmt.Errorf("key %s: %w", c.key, errHashes)
				}
			}
		}
	}
	return nil
}
