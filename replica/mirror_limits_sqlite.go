package replica

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// sqliteLimit knows how SQLite takes texts that look like numbers for such, in columns whose
// declared type does not say text or blob.
func sqliteLimit(c catalog.Column) limit {
	for _, part := range []string{"char", "clob", "text", "blob"} {
		if strings.Contains(c.Base, part) && !strings.Contains(c.Base, "int") {
			return nil
		}
	}
	if c.Base == "" {
		return nil
	}
	isNumber := slices.ContainsFunc([]string{"int", "real", "float", "double", "dec", "num",
		"bool"}, func(part string) bool {
		return strings.Contains(c.Base, part)
	})
	return func(value string) error {
		text, quoted, ok := plain(value)
		if !ok || !numeric.MatchString(text) {
			return nil
		}
		kept := sqliteNumber(strings.TrimSpace(text))
		given, givenOK := new(big.Rat).SetString(strings.TrimSpace(text))
		same, sameOK := new(big.Rat).SetString(kept)
		if givenOK && sameOK && given.Cmp(same) != 0 {
			return fmt.Errorf("SQLite would keep it in a column declared %q as a number of 15 "+
				"digits; declare it text", c.Type)
		}
		if quoted && !isNumber && kept != text {
			return fmt.Errorf("SQLite would keep it in a column declared %q as the number %s; "+
				"declare it text", c.Type, kept)
		}
		return nil
	}
}

// sqliteNumber is a number as SQLite would print it again.
func sqliteNumber(text string) string {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return strconv.FormatInt(n, 10)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}
