package converge

// A machine that runs tests is busy, so steps take long, and would be followed by long rests.
func init() { restPart = 1 }

// Some hundred rows are several steps, each of which is more than a listing.
func init() { stepParts, partKeys = 2, 350 }
