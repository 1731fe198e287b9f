package envelope

import (
	"fmt"
	"strings"
	"time"
)

// FormatTime writes a time as Python's str does, in UTC: "2026-11-22 22:16:33.237828+00:00",
// without the fraction when it is zero. Microseconds are the wire's resolution; what is finer is
// cut off.
func FormatTime(t time.Time) string { return string(appendTime(make([]byte, 0, 32), t, ' ')) }

// appendTime takes a fifth of the time of Time.AppendFormat, which reads its layout each time.
func appendTime(dst []byte, t time.Time, separator byte) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	if year < 0 {
		dst, year = append(dst, '-'), -year
	}
	dst = append(appendDigits(dst, year, 4), '-')
	dst = append(appendDigits(dst, int(month), 2), '-')
	dst = append(appendDigits(dst, day, 2), separator)
	dst = append(appendDigits(dst, hour, 2), ':')
	dst = append(appendDigits(dst, minute, 2), ':')
	dst = appendDigits(dst, second, 2)
	if micros := t.Nanosecond() / 1000; micros != 0 {
		dst = appendDigits(append(dst, '.'), micros, 6)
	}
	return append(dst, "+00:00"...)
}

// appendDigits writes a number with at least so many digits.
func appendDigits(dst []byte, n, digits int) []byte {
	if digits > 1 || n > 9 {
		dst = appendDigits(dst, n/10, digits-1)
	}
	return append(dst, byte('0'+n%10))
}

// ParseTime reads what FormatTime and other Python and Django code writes: a space or T in the
// middle, any offset, Z or none (which is UTC), a fraction of any length (cut to microseconds),
// seconds or not, or only a date. The result is in UTC.
func ParseTime(s string) (time.Time, error) {
	p := timeText{rest: s}
	var hour, minute, second, micros int
	var offset time.Duration
	year := p.number(4)
	p.expect("-")
	month := p.number(2)
	p.expect("-")
	day := p.number(2)
	if p.rest != "" {
		p.expect(" Tt")
		hour = p.number(2)
		p.expect(":")
		minute = p.number(2)
		if p.accept(":") {
			second = p.number(2)
		}
		if p.accept(".,") {
			micros = p.micros()
		}
		offset = p.offset()
	}
	local := time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, time.UTC)
	// time.Date carries over what is out of range: 30 February becomes 2 March.
	inRange := local.Month() == time.Month(month) && local.Day() == day &&
		local.Hour() == hour && local.Minute() == minute && local.Second() == second
	t := local.Add(-offset)
	if p.malformed || p.rest != "" || !inRange || !pythonYear(t) {
		return time.Time{}, fmt.Errorf("%q is not a time like 2026-11-22 22:16:33.237828+00:00", s)
	}
	return t, nil
}

// CheckTime says why a time has no form on the wire, or nil. FormatTime writes any, but ParseTime
// and Python read only the years 1 to 9999, in UTC.
func CheckTime(t time.Time) error {
	if pythonYear(t) {
		return nil
	}
	return fmt.Errorf("the year %d: replicas read the years 1 to 9999", t.UTC().Year())
}

// pythonYear says whether Python's datetime has the year of t.
func pythonYear(t time.Time) bool { return t.UTC().Year() >= 1 && t.UTC().Year() <= 9999 }

// timeText is what is left to read of a time.
type timeText struct {
	rest      string
	malformed bool
}

// accept skips one of chars.
func (p *timeText) accept(chars string) bool {
	if p.rest == "" || strings.IndexByte(chars, p.rest[0]) < 0 {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *timeText) expect(chars string) { p.malformed = !p.accept(chars) || p.malformed }

// number reads exactly n digits.
func (p *timeText) number(n int) (value int) {
	for range n {
		if p.rest == "" || p.rest[0]-'0' > 9 {
			p.malformed = true
			return 0
		}
		value = value*10 + int(p.rest[0]-'0')
		p.rest = p.rest[1:]
	}
	return value
}

// micros reads the digits of a fraction of a second, at least one.
func (p *timeText) micros() (value int) {
	digits := len(p.rest) - len(strings.TrimLeft(p.rest, "0123456789"))
	kept := min(digits, 6)
	value = p.number(max(kept, 1))
	for range 6 - kept {
		value *= 10
	}
	p.rest = p.rest[digits-kept:]
	return value
}

// offset reads a zone: none, Z, +03, +0300, +03:00 or, as Python writes local mean time, +02:30:17.
func (p *timeText) offset() time.Duration {
	negative := strings.HasPrefix(p.rest, "-")
	if p.rest == "" || p.accept("Zz") {
		return 0
	}
	p.expect("+-")
	hour := p.number(2)
	var minute, second int
	if p.rest != "" {
		p.accept(":")
		minute = p.number(2)
	}
	if p.rest != "" {
		p.accept(":")
		second = p.number(2)
	}
	p.malformed = p.malformed || hour > 23 || minute > 59 || second > 59
	offset := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute +
		time.Duration(second)*time.Second
	if negative {
		return -offset
	}
	return offset
}
