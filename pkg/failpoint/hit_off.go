//go:build !failpoints

package failpoint

// Hit marks a place at which the fault suite may stop the process. Here it does nothing.
func Hit(string) {}
