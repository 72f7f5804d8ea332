//go:build broken_silent_reset

package failpoint

// Broken is the defect of this build.
const Broken = SilentReset
