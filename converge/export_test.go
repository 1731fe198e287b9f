package converge

// A machine that runs tests is busy, so steps take long, and would be followed by long rests.
func init() { restPart = 1 }
