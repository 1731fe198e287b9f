package envelope

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimesAreWrittenAsPythonWritesThem(t *testing.T) {
	for want, at := range map[string]time.Time{
		"2026-11-22 22:16:33.237828+00:00": time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC),
		"2026-11-22 22:16:33.000001+00:00": time.Date(2026, 11, 22, 23, 16, 33, 1999, time.FixedZone("", 3600)),
		"2026-11-22 22:16:36.743000+00:00": time.Date(2026, 11, 22, 22, 16, 36, 743e6, time.UTC),
		"2026-11-22 22:16:33+00:00":        time.Date(2026, 11, 22, 22, 16, 33, 999, time.UTC),
		"0001-01-01 00:00:00+00:00":        {},
		"-0043-03-15 12:00:00+00:00":       time.Date(-43, 3, 15, 12, 0, 0, 0, time.UTC),
		"10000-01-01 00:00:00+00:00":       time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		require.Equal(t, want, FormatTime(at))
	}
}

func TestTimesAreReadInEverySpelling(t *testing.T) {
	second := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	micro := second.Add(678901 * time.Microsecond)
	for text, want := range map[string]time.Time{
		"2026-01-02 03:04:05.678901+00:00":    micro,
		"2026-01-02T03:04:05.678901Z":         micro,
		"2026-01-02t03:04:05.678901z":         micro,
		"2026-01-02 03:04:05.678901999+00:00": micro,
		"2026-01-02 03:04:05,678901":          micro,
		"2026-01-02 03:04:05.1Z":              second.Add(100 * time.Millisecond),
		"2026-01-02 03:04:05.123Z":            second.Add(123 * time.Millisecond),
		"2026-01-02 03:04:05.000010Z":         second.Add(10 * time.Microsecond),
		"2026-01-02 03:04:05+00:00":           second,
		"2026-01-02 06:04:05+03:00":           second,
		"2026-01-02 06:04:05+03":              second,
		"2026-01-02T06:34:05+0330":            second,
		"2026-01-01 22:34:05-04:30":           second,
		"2026-01-02 05:34:22+02:30:17":        second,
		"2026-01-02 05:34:22+023017":          second,
		"2026-01-02 03:04:05":                 second,
		"2026-01-02 03:04":                    time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC),
		"2026-01-02 03:04Z":                   time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC),
		"2024-02-29":                          time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		"0001-01-01 00:00:00Z":                {},
		"9999-12-31 23:59:59.999999+00:00":    time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC),
	} {
		got, err := ParseTime(text)
		require.NoError(t, err)
		require.Equal(t, want, got, text)
		again, err := ParseTime(FormatTime(got))
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
}

func TestWhatIsNoTimeIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "now", "2026", "2026-1-2", "2026-01-02 ", "2026-01-02T", "2026-01-02 3:04:05", "2026-01-02 03", "2026-01-02x03:04:05",
		"2026-02-30", "2026-00-01", "2026-13-01", "2026-01-00", "2026-01-02 24:00:00", "2026-01-02 03:60:00",
		"2026-01-02 03:04:60", "2026-01-02 03:04:05.", "2026-01-02 03:04:05.Z", "2026-01-02 03:04:05+", "2026-01-02 03:04:05+3",
		"2026-01-02 03:04:05+24:00", "2026-01-02 03:04:05+03:60", "2026-01-02 03:04:05+03:", "2026-01-02 03:04:05 Z",
		"2026-01-02 03:04:05Z+03:00", "2026-01-02 03:04:05ZZ", "2026-01-02 03:04:05+03:00:00:00", "+2026-01-02", "-026-01-02",
		"0000-12-31", "0001-01-01 00:00:00+01:00", "9999-12-31 23:59:59-00:01", "２026-01-02", "2026-01-02 03:04:05+03:00:60",
	} {
		got, err := ParseTime(text)
		require.ErrorContains(t, err, "is not a time like 2026-11-22 22:16:33.237828+00:00", text)
		require.True(t, got.IsZero())
	}
}

func TestTimesAreWrittenAsByTheirLayout(t *testing.T) {
	for _, start := range []time.Time{{}, time.UnixMicro(-1), time.UnixMicro(0), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)} {
		for _, step := range []time.Duration{0, 1, time.Microsecond, 1_234_567 * time.Microsecond, time.Second, 36*time.Hour + 61*time.Minute} {
			at := start.Add(-step)
			layout := "2006-01-02 15:04:05.000000-07:00"
			if at.Nanosecond() < 1000 {
				layout = "2006-01-02 15:04:05-07:00"
			}
			if at.Year() >= 1 {
				require.Equal(t, at.UTC().Format(layout), FormatTime(at))
			}
		}
	}
}
