package envelope

import (
	"fmt"
	"strconv"
	"strings"
)

// parseInt reads a JSON number as an integer, exactly: 3, 3.0 and 30e-1 are 3, 3.5 is an error.
func parseInt(number string) (int64, error) {
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		return n, nil
	}
	mantissa, exponent := number, 0
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		mantissa = number[:i]
		// out of range it is the largest int, and so is refused below
		exponent, _ = strconv.Atoi(number[i+1:])
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimRight(whole+fraction, "0")
	zeros := exponent + len(whole) - len(digits) // the value is digits followed by so many zeros
	switch {
	case strings.Trim(digits, "-0") == "":
		return 0, nil
	case zeros < 0:
		return 0, fmt.Errorf("want an integer, got %.40s", number)
	case zeros > 18: // the most an int64 can have; do not build more
		return 0, fmt.Errorf("%.40s does not fit in 64 bits", number)
	}
	n, err := strconv.ParseInt(digits+strings.Repeat("0", zeros), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40s does not fit in 64 bits", number)
	}
	return n, nil
}
