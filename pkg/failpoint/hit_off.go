//go:build !failpoints

package failpoint

import "time"

// Hit marks a place at which the fault suite may stop the process. Here it does nothing.
func Hit(string) {}

// Now is the clock of this machine, which the fault suite may set wrong. Here it is time.Now.
func Now() time.Time { return time.Now() }
