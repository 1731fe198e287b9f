package dashboard

import "time"

// Tests look more often.
func init() { fresh = 20 * time.Millisecond }
